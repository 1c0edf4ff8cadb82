"""What learns from labels: frozen values; heads look at features alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.distillation_data import PreparedImages
from apercu.types import Targets

Features: TypeAlias = Float[Tensor, "images features"]
Labels: TypeAlias = Int[Tensor, " images"]
ClassPredictor: TypeAlias = Callable[[Features], Targets]
"""Features → class indices."""

SMALLEST_DEVIATION = 1e-6
"""Standard deviation below which a feature counts as constant, and tells nothing."""


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """Images of one set as one network sees them, and their classes.

    Args:
        features: of the network.
        labels: class indices.
        images: prepared for the network; needed to train it further.
        classifier: the network.
    """

    features: Features
    labels: Labels
    images: PreparedImages | None = None
    classifier: Classifier | None = None


class Learner(ABC):
    """Learns classes from some images of a set; prints as its own settings.

    Classes count the same however often they occur: each label has the weight of one over the
    number of labels of its class.
    """

    @property
    def cache_key(self) -> str:
        return repr(self)

    @abstractmethod
    def predict(
        self, learn: LabelledFeatures, chosen: Sequence[int], test: LabelledFeatures, seed: int
    ) -> Targets:
        """What it says of the images of a test.

        Args:
            learn: all labelled images.
            chosen: the indices of those that may be learnt from.
            test: images whose classes are not looked at.
            seed: of every draw.
        """


def count_classes(learn: LabelledFeatures, test: LabelledFeatures) -> int:
    """How many classes there are in both sets."""
    return int(max(learn.labels.max(), test.labels.max())) + 1


class FeatureHead(Learner, ABC):
    """Learns from features, in units of their standard deviation."""

    def predict(
        self, learn: LabelledFeatures, chosen: Sequence[int], test: LabelledFeatures, seed: int
    ) -> Targets:
        rows = list(chosen)
        features, labels = learn.features[rows], learn.labels[rows]
        return self.fit(features, labels, count_classes(learn, test), seed)(test.features)

    def fit(self, features: Features, labels: Labels, classes: int, seed: int) -> ClassPredictor:
        """Learns from labelled features, in units of their standard deviation.

        Args:
            features: of the labelled images.
            labels: class indices below `classes`; a class may have none.
            classes: how many there are.
            seed: of every draw.
        """
        centre, spread = features.mean(0), features.std(0, unbiased=False)
        spread = torch.where(spread < SMALLEST_DEVIATION, torch.inf, spread)
        reads = self.train_network((features - centre) / spread, labels, classes, seed)
        return lambda shown: reads((shown - centre) / spread)

    @abstractmethod
    def train_network(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        """What `fit` does, with features that are standardised."""


def compute_class_weights(labels: Labels, classes: int) -> Float[Tensor, " classes"]:
    """Of each class, so that the classes that occur have the same share; their labels' mean is 1.

    >>> weights(torch.tensor([0, 0, 0, 1]), 3)
    tensor([0.6667, 2.0000, 0.0000])
    """
    counts = labels.bincount(minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)
