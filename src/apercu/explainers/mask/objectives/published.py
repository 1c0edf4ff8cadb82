"""The objective as printed in Dabkowski & Gal 2017, equation 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator, Tensor

from apercu.classifiers.decisions import find_decision
from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives.base import (
    MaskBatch,
    MaskObjective,
    Terms,
    area,
    roughness,
)
from apercu.networks.decoder import Evidence
from apercu.removal import Alternative
from apercu.types import Images, Logits, Scores


class Printed(MaskObjective):
    """λ₁ TV(M) + λ₂ AV(M) − log f_c(Φ(x, M)) + λ₃ f_c(Φ(x, 1 − M))^λ₄.

    TV is a sum and AV a mean. The paper prints λ₁ = 10 and λ₂ = 10⁻³; on these scales only
    the two values exchanged train, so they are the defaults. A fake class has the area term alone.

    Attributes:
        smoothness: weight λ₁ of the total variation.
        area: weight λ₂ of the mean of the mask.
        destroyer: weight λ₃ of the probability of the class in what remains.
        destroyer_power: power λ₄ of that probability.
    """

    form: Literal["printed"] = "printed"
    smoothness: float = Field(1e-3, ge=0)
    area: float = Field(10.0, ge=0)
    destroyer: float = Field(5.0, ge=0)
    destroyer_power: float = Field(0.3, gt=0)

    def compute_terms(
        self,
        classifier: Callable[[Images], Logits],
        batch: MaskBatch,
        evidence: Evidence,
        generator: Generator,
    ) -> Terms:
        images, targets, real = batch.images, batch.targets, batch.real
        masks = enlarge(evidence.extent, images.shape[-2:]).sigmoid()
        removal, decision = Alternative(), find_decision(classifier)
        kept = classifier(removal(images, masks, generator))
        removed = classifier(removal(images, 1 - masks, generator))
        left = decision.log_probability(removed, targets)
        destroyed = (left.exp() + 1e-8).pow(self.destroyer_power)
        zero = torch.zeros(())
        return {
            "area": self.area * area(masks),
            "smoothness": torch.where(real, self.smoothness * roughness(masks), zero),
            "preserver": torch.where(real, -decision.log_probability(kept, targets), zero),
            "destroyer": torch.where(real, self.destroyer * destroyed, zero),
        }


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
        removal, margin = Alternative(), find_decision(classifier).margin
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
