"""Our objective: the extent of the evidence, and the core of it that is sufficient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Generator

from apercu.classifiers.decisions import find_decision
from apercu.explainers.mask.network import enlarge
from apercu.explainers.mask.objectives.base import (
    MaskBatch,
    MaskObjective,
    Terms,
    area,
    edge_aware_roughness,
)
from apercu.explainers.mask.objectives.crop_search import compute_votes, propose_boxes, score_boxes
from apercu.networks.decoder import Evidence
from apercu.removal import Alternative
from apercu.types import Images, Logits, LogOdds, Maps, Scores

SEARCHED_FRACTION = 0.5
"""Fraction of the images of a step for which crops are tried."""
AREA_WEIGHT = 2.0
"""Weight of a crop's area; see docs/experiments.md."""
TEMPERATURE = 0.3
"""Difference of the saliency metric that makes a crop e times heavier."""


class ExtentAndCore(MaskObjective):
    """The printed objective for the extent, and a search for the smallest sufficient crop.

    The saliency metric crops and zooms, and a classifier is surer of a zoomed head than of a whole
    animal. No gradient of a mask at the original scale shows that. Therefore a few crops are tried
    per image and step, and the core learns the pixels of the better ones. In a single field the two
    disturb each other: the extent becomes flat, and the crops as large as the extent.

    Attributes:
        smoothness: weight of mask edges where the image has none.
        area: weight of the mean of the mask.
        preserver: weight of −log p(class) of what the mask keeps.
        destroyer: weight of p(class)^destroyer_power of what remains.
        destroyer_power: power in the term of `destroyer`.
        sufficient: weight of the search for the sufficient crop.
        trials: crops tried per image and step.
    """

    form: Literal["dial"] = "dial"
    smoothness: float = Field(40.0, ge=0)
    area: float = Field(8.0, ge=0)
    preserver: float = Field(1.0, ge=0)
    destroyer: float = Field(4.0, ge=0)
    destroyer_power: float = Field(0.5, gt=0)
    sufficient: float = Field(3.0, ge=0)
    trials: int = Field(5, ge=3)

    def compute_terms(
        self,
        classifier: Callable[[Images], Logits],
        batch: MaskBatch,
        evidence: Evidence,
        generator: Generator,
    ) -> Terms:
        real = batch.real
        images, targets = batch.images[real], batch.targets[real]
        masks = enlarge(evidence.extent, batch.images.shape[-2:]).sigmoid()
        fine = evidence.extent.sigmoid()
        terms = {
            "area": self.area * (area(masks) + area(evidence.core.sigmoid()) * ~real),
            "smoothness": self.smoothness * edge_aware_roughness(fine, batch.images) * real,
        }
        if len(images):
            terms |= {
                name: torch.zeros_like(masks[:, 0, 0]).masked_scatter(real, values)
                for name, values in {
                    **self._compute_extent_terms(
                        classifier, images, targets, masks[real], generator
                    ),
                    "sufficient": self._compute_core_term(
                        classifier, images, targets, evidence.core[real], generator
                    ),
                }.items()
            }
        return terms

    def _compute_extent_terms(
        self,
        classifier: Callable[[Images], Logits],
        images: Images,
        targets: torch.Tensor,
        masks: Maps,
        generator: Generator,
    ) -> Terms:
        removal = Alternative()
        decision = find_decision(classifier)
        kept = decision.log_probability(classifier(removal(images, masks, generator)), targets)
        left = decision.log_probability(classifier(removal(images, 1 - masks, generator)), targets)
        destroyed = (left.exp() + 1e-6).pow(self.destroyer_power)
        return {"preserver": -self.preserver * kept, "destroyer": self.destroyer * destroyed}

    def _compute_core_term(
        self,
        classifier: Callable[[Images], Logits],
        images: Images,
        targets: torch.Tensor,
        core: LogOdds,
        generator: Generator,
    ) -> Scores:
        every = core[:, 0, 0]
        count = max(1, round(SEARCHED_FRACTION * len(images)))
        chosen = torch.randperm(len(images), generator=generator)[:count].to(images.device)
        images, targets, core = images[chosen], targets[chosen], core[chosen]
        with torch.no_grad():
            boxes = propose_boxes(core, self.trials, generator)
            scores = score_boxes(classifier, images, boxes, targets, area_weight=AREA_WEIGHT)
            votes = compute_votes(boxes, scores, TEMPERATURE, core.shape[1:])
        loss = F.binary_cross_entropy_with_logits(core, votes, reduction="none")
        weighted = self.sufficient / SEARCHED_FRACTION * loss.mean((1, 2))
        return torch.zeros_like(every).index_put((chosen,), weighted)
