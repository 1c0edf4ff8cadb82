"""How bright the objects are."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.pretexts.base import (
    Lesson,
    Pretext,
    PretextNetwork,
    Sample,
    quarter_turns,
)
from apercu.types import Scores


@final
class Magnitudes(Pretext):
    """Regression of magnitudes, one per band, by their mean absolute error.

    The last activation is a ReLU that saturates at 1 (Martinazzo et al. 2020); slopes pass it
    everywhere, or an image that is once too bright would never be heard again. Missing magnitudes
    count nothing.

    Attributes:
        faintest: magnitude that the last activation gives as 1; 0 is given as 0.
        turned: whether images are turned by right angles and mirrored, as nothing in the sky has
            an upper side.
        dropout: share of the features that a step leaves out.
        radius: of the aperture in which brightness is measured where there is no catalogue, in
            pixels of the stored image.
    """

    form: Literal["magnitudes"] = "magnitudes"
    faintest: float = Field(30.0, gt=0)
    turned: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    radius: float = Field(6.0, gt=0)

    def parts(self, sample: Sample) -> dict[str, nn.Module]:
        found = _known(sample.found)
        head = nn.Linear(sample.features, found.shape[1])
        with torch.no_grad():  # begins at the medians, where the activation is not saturated
            head.weight.mul_(0.1)
            head.bias.copy_(found.nanmedian(0).values.nan_to_num(15.0) / self.faintest)
        return {"head": head}

    def terms(self, network: PretextNetwork, lesson: Lesson) -> dict[str, Scores]:
        images = lesson.images
        if self.turned:
            images = quarter_turns(images, lesson.generator)
        said = self._said(network, images, lesson.generator if self.dropout else None)
        off = (said - _known(lesson.found)).abs()
        known = off.isfinite()
        share = known.float().mean().clamp(min=1e-6)
        return {"magnitude": torch.where(known, off, 0.0).mean(1) / share}

    def errors(self, network: PretextNetwork, lesson: Lesson) -> dict[str, Scores]:
        off = (self._said(network, lesson.images) - _known(lesson.found)).abs()
        return {str(place): column for place, column in enumerate(off.unbind(1))}

    def tiles(self, network: PretextNetwork, lesson: Lesson) -> list[render.Tile]:
        said = self._said(network, lesson.images)[0]
        title = ", ".join(f"{one:.2f}" for one in said.tolist())
        return [render.Tile(render.to_image(lesson.images[0].cpu()), title)]

    def _said(
        self, network: PretextNetwork, images: Tensor, drops: Generator | None = None
    ) -> Tensor:
        features = network(images)
        if drops is not None:
            kept = torch.rand(features.shape, generator=drops) >= self.dropout
            features = features * kept.to(features) / (1 - self.dropout)
        share: Tensor = network.parts["head"](features)
        return self.faintest * (share + (share.clamp(0, 1) - share).detach())


def _known(found: Tensor | None) -> Tensor:
    if found is None:
        raise ConfigError("magnitudes: expected magnitudes with the images, got none")
    return found
