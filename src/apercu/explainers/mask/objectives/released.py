"""The objective as released by Dabkowski & Gal (PiotrDabkowski/pytorch-saliency)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives.base import (
    MaskBatch,
    MaskObjective,
    Terms,
    area,
    margin,
    roughness,
)
from apercu.networks.decoder import Evidence
from apercu.removal import Alternative
from apercu.types import Images, Logits, Scores

BORDER = 0.3
"""Weight of the squared mask along the border, within the smoothness."""


class Released(MaskObjective):
    """Hinges on the logit margin in place of probabilities, and area with a power.

    For a fake class the hinges are exchanged, still with respect to the predicted class: what is
    kept must not show it, and what remains must.

    Attributes:
        smoothness: weight of half the summed squared differences, border included.
        area: weight of the area.
        area_power: power of the mask within the area.
        preserver: weight of the hinge on the kept image.
        destroyer: weight of the hinge on the remaining image.
    """

    form: Literal["released"] = "released"
    smoothness: float = Field(0.005, ge=0)
    area: float = Field(8.0, ge=0)
    area_power: float = Field(0.3, gt=0)
    preserver: float = Field(0.3, ge=0)
    destroyer: float = Field(1.0, ge=0)

    def compute_terms(
        self,
        classifier: Callable[[Images], Logits],
        batch: MaskBatch,
        evidence: Evidence,
        generator: Generator,
    ) -> Terms:
        images, real = batch.images, batch.real
        masks = enlarge(evidence.extent, images.shape[-2:]).sigmoid()
        noise = torch.randn(images.shape, generator=generator).to(images)
        images = (images + 0.015 * noise).clamp(0, 1)  # 0.03 on the release's [-1, 1] scale
        removal = Alternative()
        kept = margin(classifier(removal(images, masks, generator)), batch.predicted)
        left = margin(classifier(removal(images, 1 - masks, generator)), batch.predicted)
        preserver = torch.where(real, F.relu(1 - kept), F.relu(kept + 1))
        destroyer = torch.where(real, F.relu(left + 5), F.relu(1 - left))
        return {
            "area": self.area * area(masks, self.area_power),
            "smoothness": self.smoothness * (roughness(masks) + BORDER * _border_energy(masks)) / 2,
            "preserver": self.preserver * preserver,
            "destroyer": self.destroyer * destroyer,
        }


def _border_energy(masks: Tensor) -> Scores:
    """Return the sum of the squared mask along the four edges."""
    rows = masks[:, [0, -1]].square().sum((1, 2))
    return rows + masks[:, :, [0, -1]].square().sum((1, 2))
