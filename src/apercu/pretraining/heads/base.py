"""The base classes of heads: learners of classes from few labels."""

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
from apercu.errors import ImagesError
from apercu.types import Targets

Features: TypeAlias = Float[Tensor, "images features"]
Labels: TypeAlias = Int[Tensor, " images"]
ClassPredictor: TypeAlias = Callable[[Features], Targets]
"""Features → class indices."""

SMALLEST_DEVIATION = 1e-6
"""Standard deviation below which a feature counts as constant, and is ignored."""


@dataclass(frozen=True, eq=False)
class LabelledFeatures:
    """The features that one network computes for a set of images, and their classes.

    Args:
        features: features of the network, `images × features`.
        labels: class indices, one per image.
        images: prepared images; needed to train the network further.
        classifier: network that computed the features; None for those of several networks.
        parts: features of each network, where those of several are joined.
    """

    features: Features
    labels: Labels
    images: PreparedImages | None = None
    classifier: Classifier | None = None
    parts: tuple[LabelledFeatures, ...] = ()


class Learner(ABC):
    """Learns classes from some images of a set; prints as its own settings.

    Classes count the same however often they occur: each label has the weight of one over the
    number of labels of its class.
    """

    @property
    def cache_key(self) -> str:
        """The settings as text, on which the names of stored results depend."""
        return repr(self)

    @abstractmethod
    def predict(
        self,
        training: LabelledFeatures,
        chosen: Sequence[int],
        test: LabelledFeatures,
        seed: int,
    ) -> Targets:
        """Learn from some labelled images, and predict the classes of test images.

        Args:
            training: all labelled images.
            chosen: indices of the images that may be learnt from.
            test: test images; their labels are not used.
            seed: seed of every draw.

        Returns:
            Class indices, one per test image.
        """


def count_classes(training: LabelledFeatures, test: LabelledFeatures) -> int:
    """Count the classes of both sets together."""
    return int(max(training.labels.max(), test.labels.max())) + 1


class FeatureHead(Learner, ABC):
    """Learns from features, in units of their standard deviation."""

    def predict(
        self,
        training: LabelledFeatures,
        chosen: Sequence[int],
        test: LabelledFeatures,
        seed: int,
    ) -> Targets:
        rows = list(chosen)
        features, labels = training.features[rows], training.labels[rows]
        return self.fit(features, labels, count_classes(training, test), seed)(test.features)

    def fit(self, features: Features, labels: Labels, classes: int, seed: int) -> ClassPredictor:
        """Learn from labelled features, in units of their standard deviation.

        Args:
            features: features of the labelled images, `images × features`.
            labels: class indices below `classes`; a class may have none.
            classes: number of classes.
            seed: seed of every draw.

        Returns:
            The function features → class indices.
        """
        convert = standardise(features)
        predict = self.fit_standardised(convert(features), labels, classes, seed)
        return lambda new: predict(convert(new))

    @abstractmethod
    def fit_standardised(
        self, features: Features, labels: Labels, classes: int, seed: int
    ) -> ClassPredictor:
        """Learn from standardised features.

        Args:
            features: features of mean 0 and standard deviation 1, `batch × features`.
            labels: class index of each row.
            classes: number of classes.
            seed: seed of all draws.

        Returns:
            The function features → class indices.
        """


def standardise(features: Features) -> Callable[[Features], Features]:
    """Return the conversion to units of the standard deviation of some features, from their mean.

    Features that are constant there become 0.
    """
    centre, spread = features.mean(0), features.std(0, unbiased=False)
    spread = torch.where(spread < SMALLEST_DEVIATION, torch.inf, spread)
    return lambda new: (new - centre) / spread


def join_features(parts: Sequence[LabelledFeatures]) -> LabelledFeatures:
    """Join the features that several networks compute for the same images.

    Each part keeps its own scale; heads standardise every feature.

    Args:
        parts: features of at least one network; the images and their order are the same.

    Returns:
        The features side by side; `parts` holds those of each network.

    Raises:
        ImagesError: the networks have read different images.
    """
    first = parts[0].labels
    if any(len(part.labels) != len(first) or (part.labels != first).any() for part in parts):
        raise ImagesError("join: expected the same images for all networks, got different ones")
    features = torch.cat([part.features for part in parts], 1)
    return LabelledFeatures(features, first, parts[0].images, parts=tuple(parts))


def compute_class_weights(labels: Labels, classes: int) -> Float[Tensor, " classes"]:
    """Compute a weight for each class, so that all classes that occur count the same.

    The mean over the labels is 1.

    >>> compute_class_weights(torch.tensor([0, 0, 0, 1]), 3)
    tensor([0.6667, 2.0000, 0.0000])
    """
    counts = labels.bincount(minlength=classes).float()
    present = counts > 0
    return torch.where(present, len(labels) / (present.sum() * counts.clamp(min=1)), 0.0)
