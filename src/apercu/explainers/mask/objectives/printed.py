"""The objective as printed in Dabkowski & Gal 2017, equation 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Generator

from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives.base import (
    MaskBatch,
    MaskObjective,
    Terms,
    area,
    log_probability,
    roughness,
)
from apercu.networks.decoder import Evidence
from apercu.removal import Alternative
from apercu.types import Images, Logits


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
        removal = Alternative()
        kept = classifier(removal(images, masks, generator))
        removed = classifier(removal(images, 1 - masks, generator))
        destroyed = (log_probability(removed, targets).exp() + 1e-8).pow(self.destroyer_power)
        zero = torch.zeros(())
        return {
            "area": self.area * area(masks),
            "smoothness": torch.where(real, self.smoothness * roughness(masks), zero),
            "preserver": torch.where(real, -log_probability(kept, targets), zero),
            "destroyer": torch.where(real, self.destroyer * destroyed, zero),
        }
