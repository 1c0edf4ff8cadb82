"""A head that predicts the class of the most similar labelled images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F

from apercu.errors import ConfigError
from apercu.pretraining.heads.base import (
    ClassPredictor,
    FeatureHead,
    Features,
    Labels,
    compute_class_weights,
)
from apercu.types import Targets


@final
@dataclass(frozen=True)
class Nearest(FeatureHead):
    """Predicts the class with the largest weight among the neighbours by the angle of features.

    Args:
        neighbours: number of neighbours; never more than the rarest class has labels, which
            would lose every vote otherwise.
    """

    neighbours: int = 10

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"nearest: neighbours: expected at least 1, got {self.neighbours}")

    def fit_standardised(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        training, weights = F.normalize(features, dim=1), compute_class_weights(labels, classes)
        votes = F.one_hot(labels, classes) * weights
        counts = labels.bincount()
        rarest = int(counts[counts > 0].min())

        def predict(new: Features) -> Targets:
            similarity = F.normalize(new, dim=1) @ training.T
            chosen = similarity.topk(min(self.neighbours, rarest), dim=1).indices
            return votes[chosen].sum(1).argmax(1)

        return torch.no_grad()(predict)
