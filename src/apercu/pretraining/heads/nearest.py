"""What the most similar labelled images are."""

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
    """The class with the largest weight among the most similar, by the angle of the features.

    Args:
        neighbours: how many vote; never more than the rarest class has labels, or all of them
            would vote for it.
    """

    neighbours: int = 10

    def __post_init__(self) -> None:
        if self.neighbours < 1:
            raise ConfigError(f"nearest: neighbours: expected at least 1, got {self.neighbours}")

    def train_network(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        known, counts = F.normalize(features, dim=1), compute_class_weights(labels, classes)
        votes = F.one_hot(labels, classes) * counts
        found = labels.bincount()
        rarest = int(found[found > 0].min())

        def reads(shown: Features) -> Targets:
            alike = F.normalize(shown, dim=1) @ known.T
            chosen = alike.topk(min(self.neighbours, rarest), dim=1).indices
            return votes[chosen].sum(1).argmax(1)

        return torch.no_grad()(reads)
