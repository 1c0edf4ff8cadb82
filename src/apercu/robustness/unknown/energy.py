"""Unknown images by the energy of the logits (baseline)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ClassifierError
from apercu.filters.checks import check_positive
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
class Energy(UnknownMethod):
    """The energy −T·log Σ exp(logit / T) (Liu et al. 2020).

    The paper shows that it separates better than the largest probability, since a softmax loses
    how large the logits are together. Where each class is decided by itself, the energies
    −log(1 + exp(logit)) of all classes are added (Wang et al. 2021).

    Args:
        temperature: the number T by which logits are divided.
    """

    name = "energy"
    temperature: float = 1.0

    def __post_init__(self) -> None:
        check_positive("energy", temperature=self.temperature)

    def fit(self, known: KnownImages, report: ProgressCallback = ignore_progress) -> UnknownScorer:
        return self.restore(known.classifier, {})

    def restore(self, classifier: Classifier, tensors: Mapping[str, Tensor]) -> UnknownScorer:
        check_classes(classifier, self.name)
        if classifier.output.holds_probabilities and not classifier.decision.is_multiple:
            raise ClassifierError(
                f"energy: {classifier.spec} gives probabilities, whose energy is the same for "
                "every image; choose max_softmax"
            )
        return EnergyScorer(self, classifier)


@final
@dataclass(frozen=True, eq=False)
class EnergyScorer(UnknownScorer):
    """The energy of a classifier's logits.

    Args:
        method: the method.
        classifier: the classifier, which gives logits.
    """

    method: Energy
    classifier: Classifier

    def compute_scores(self, images: Images) -> Scores:
        logits = self.classifier(images) / self.method.temperature
        if self.classifier.decision.is_multiple:
            return -self.method.temperature * F.softplus(logits).sum(1)
        return -self.method.temperature * logits.logsumexp(1)

    def pack_tensors(self) -> dict[str, Tensor]:
        return {}
