"""How bright the objects are."""

from __future__ import annotations

from typing import Literal, final

import torch
from pydantic import Field
from torch import Generator, Tensor, nn

from apercu import render
from apercu.errors import ConfigError
from apercu.pretraining.pretexts.base import (
    Pretext,
    PretextBatch,
    PretextNetwork,
    PretextSample,
    turn_randomly,
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

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        found = _require_targets(sample.targets)
        head = nn.Linear(sample.features, found.shape[1])
        with torch.no_grad():  # begins at the medians, where the activation is not saturated
            head.weight.mul_(0.1)
            head.bias.copy_(found.nanmedian(0).values.nan_to_num(15.0) / self.faintest)
        return {"head": head}

    def compute_losses(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        images = lesson.images
        if self.turned:
            images = turn_randomly(images, lesson.generator)
        said = self._predict(network, images, lesson.generator if self.dropout else None)
        off = (said - _require_targets(lesson.targets)).abs()
        known = off.isfinite()
        share = known.float().mean().clamp(min=1e-6)
        return {"magnitude": torch.where(known, off, 0.0).mean(1) / share}

    def measure_errors(self, network: PretextNetwork, lesson: PretextBatch) -> dict[str, Scores]:
        off = (self._predict(network, lesson.images) - _require_targets(lesson.targets)).abs()
        return {str(place): column for place, column in enumerate(off.unbind(1))}

    def tiles(self, network: PretextNetwork, lesson: PretextBatch) -> list[render.Tile]:
        said = self._predict(network, lesson.images)[0]
        title = ", ".join(f"{one:.2f}" for one in said.tolist())
        return [render.Tile(render.to_image(lesson.images[0].cpu()), title)]

    def _predict(
        self, network: PretextNetwork, images: Tensor, drops: Generator | None = None
    ) -> Tensor:
        features = network(images)
        if drops is not None:
            kept = torch.rand(features.shape, generator=drops) >= self.dropout
            features = features * kept.to(features) / (1 - self.dropout)
        share: Tensor = network.parts["head"](features)
        return self.faintest * (share + (share.clamp(0, 1) - share).detach())


def _require_targets(found: Tensor | None) -> Tensor:
    if found is None:
        raise ConfigError("magnitudes: expected magnitudes with the images, got none")
    return found
