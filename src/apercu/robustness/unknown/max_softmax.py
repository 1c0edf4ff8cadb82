"""Unknown images by the logits alone: the largest probability, and the entropy (baselines)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.decisions import clamp_probability
from apercu.progress import ProgressCallback, ignore_progress
from apercu.robustness.unknown.base import (
    KnownImages,
    UnknownMethod,
    UnknownScorer,
    check_classes,
)
from apercu.types import Images, Scores


@final
@dataclass(frozen=True)
class MaxSoftmax(UnknownMethod):
    """How far the largest probability is from 1 (Hendrycks and Gimpel 2017).

    The paper shows that wrong and unknown images have smaller largest probabilities than correct
    ones, and calls this a baseline. It is for one class per image; where each class is decided by
    itself, the score is our choice: the mean chance that a decision is wrong, min(p, 1 − p).
    """

    name = "max_softmax"

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        return self.restore(known.classifier, {})

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        check_classes(classifier, self.name)
        return MaxSoftmaxScorer(self, classifier)


@final
@dataclass(frozen=True, eq=False)
class MaxSoftmaxScorer(UnknownScorer):
    """One minus the largest probability.

    Args:
        method: the method.
        classifier: the classifier.
    """

    method: MaxSoftmax
    classifier: Classifier

    def compute_scores(self, images: Images) -> Scores:
        probabilities = self.classifier.predict_probabilities(images)
        if self.classifier.decision.is_multiple:
            return probabilities.minimum(1 - probabilities).mean(1)
        return 1 - probabilities.max(1).values

    def pack_tensors(self) -> dict[str, Tensor]:
        return {}


@final
@dataclass(frozen=True)
class Entropy(UnknownMethod):
    """The entropy of the probabilities, in nats; the mean of all where classes are independent."""

    name = "entropy"

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        return self.restore(known.classifier, {})

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        check_classes(classifier, self.name)
        return EntropyScorer(self, classifier)


@final
@dataclass(frozen=True, eq=False)
class EntropyScorer(UnknownScorer):
    """The entropy of a classifier's probabilities.

    Args:
        method: the method.
        classifier: the classifier.
    """

    method: Entropy
    classifier: Classifier

    def compute_scores(self, images: Images) -> Scores:
        probabilities = self.classifier.predict_probabilities(images)
        return compute_entropy(probabilities, is_multiple=self.classifier.decision.is_multiple)

    def pack_tensors(self) -> dict[str, Tensor]:
        return {}


def compute_entropy(probabilities: Tensor, *, is_multiple: bool = False) -> Scores:
    """Return the entropy of each row of probabilities, in nats.

    Args:
        probabilities: probabilities of the classes, `batch × classes`.
        is_multiple: whether each class is decided by itself; then it is the mean of all classes.

    Returns:
        One number per row.
    """
    own = clamp_probability(probabilities)
    if is_multiple:
        return -(own * own.log() + (1 - own) * (1 - own).log()).mean(1)
    return -(probabilities * own.log()).sum(1)
