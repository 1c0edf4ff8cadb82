"""Regression of the magnitudes of objects."""

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
    """Predicts magnitudes, one per band, with the mean absolute error.

    The last activation is a ReLU that saturates at 1 (Martinazzo et al. 2020). Gradients pass it
    everywhere; otherwise an image that is predicted too bright once would never be learnt. Missing
    magnitudes do not count.

    Attributes:
        faintest: magnitude at which the last activation is 1; it is 0 at magnitude 0.
        turned: whether images are turned by right angles and mirrored, as nothing in the sky has
            an upper side.
        dropout: fraction of the features that a step leaves out.
        radius: radius of the aperture in which brightness is measured where there is no catalogue,
            in pixels of the stored image.
    """

    form: Literal["magnitudes"] = "magnitudes"
    faintest: float = Field(30.0, gt=0)
    turned: bool = True
    dropout: float = Field(0.0, ge=0, lt=1)
    radius: float = Field(6.0, gt=0)

    def build_parts(self, sample: PretextSample) -> dict[str, nn.Module]:
        targets = _require_targets(sample.targets)
        head = nn.Linear(sample.features, targets.shape[1])
        with torch.no_grad():  # starts at the medians, where the activation is not saturated
            head.weight.mul_(0.1)
            head.bias.copy_(targets.nanmedian(0).values.nan_to_num(15.0) / self.faintest)
        return {"head": head}

    def compute_losses(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        images = batch.images
        if self.turned:
            images = turn_randomly(images, batch.generator)
        predicted = self._predict(network, images, batch.generator if self.dropout else None)
        errors = (predicted - _require_targets(batch.targets)).abs()
        finite = errors.isfinite()
        fraction = finite.float().mean().clamp(min=1e-6)
        return {"magnitude": torch.where(finite, errors, 0.0).mean(1) / fraction}

    def measure_errors(self, network: PretextNetwork, batch: PretextBatch) -> dict[str, Scores]:
        errors = (self._predict(network, batch.images) - _require_targets(batch.targets)).abs()
        return {str(index): column for index, column in enumerate(errors.unbind(1))}

    def sample_tiles(self, network: PretextNetwork, batch: PretextBatch) -> list[render.Tile]:
        predicted = self._predict(network, batch.images)[0]
        title = ", ".join(f"{value:.2f}" for value in predicted.tolist())
        return [render.Tile(render.to_image(batch.images[0].cpu()), title)]

    def _predict(
        self, network: PretextNetwork, images: Tensor, drops: Generator | None = None
    ) -> Tensor:
        """Predict magnitudes; `drops` draws the features that are left out."""
        features = network(images)
        if drops is not None:
            kept = torch.rand(features.shape, generator=drops) >= self.dropout
            features = features * kept.to(features) / (1 - self.dropout)
        level: Tensor = network.parts["head"](features)
        return self.faintest * (level + (level.clamp(0, 1) - level).detach())


def _require_targets(targets: Tensor | None) -> Tensor:
    if targets is None:
        raise ConfigError("magnitudes: expected magnitudes with the images, got none")
    return targets
