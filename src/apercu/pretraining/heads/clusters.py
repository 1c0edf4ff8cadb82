"""A head that clusters features without labels, and gives each cluster one class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Generator

from apercu.errors import ConfigError
from apercu.pretraining.heads.base import (
    LabelledFeatures,
    Learner,
    compute_class_weights,
    count_classes,
    standardise,
)
from apercu.pretraining.pretexts.clusters import cluster_features, match_pairs
from apercu.types import Targets


@final
@dataclass(frozen=True)
class AssignedClusters(Learner):
    """Clusters all features by k-means, one cluster per class, and names clusters by the labels.

    Each class gets a cluster of its own, so that most labels are right (the Hungarian algorithm).
    With all labels this is the accuracy by assignment of papers on deep clustering: the labels
    choose names, and nothing else.

    Args:
        restarts: number of random starts of k-means; the tightest clusters are kept.
    """

    restarts: int = 10

    def __post_init__(self) -> None:
        if self.restarts < 1:
            raise ConfigError(f"clusters: restarts: expected at least 1, got {self.restarts}")

    def predict(
        self,
        training: LabelledFeatures,
        chosen: Sequence[int],
        test: LabelledFeatures,
        seed: int,
    ) -> Targets:
        classes, rows = count_classes(training, test), list(chosen)
        convert = standardise(training.features)
        groups, centres = cluster_features(
            convert(training.features), classes, Generator().manual_seed(seed), self.restarts
        )
        labels = training.labels[rows]
        votes = torch.zeros(classes, classes, dtype=torch.double)
        weights = compute_class_weights(labels, classes).double()
        votes.index_put_((groups[rows], labels), weights[labels], accumulate=True)
        names = torch.from_numpy(match_pairs(-votes.numpy()))
        return names[torch.cdist(convert(test.features), centres).argmin(1)]
