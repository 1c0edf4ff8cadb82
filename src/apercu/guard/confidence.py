"""The confidence of a guard: labels of images, their logits, and the temperature that fits both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.classifiers.calibration import fit_temperature, measure_reliability
from apercu.errors import ImagesError, TargetError
from apercu.guard.guard import BATCH
from apercu.guard.network import GuardNetwork
from apercu.guard.observe import Observer
from apercu.images import ImageSource, batches
from apercu.progress import ProgressCallback
from apercu.types import Logits

FEWEST_LABELS: Final = 20
"""Smallest number of images with labels that set a temperature."""
TITLE: Final = "calibration images"


def find_labels(
    classifier: Classifier, source: ImageSource, labels: Sequence[str | int | None]
) -> list[int]:
    """Return the class of each image of a batch.

    Args:
        classifier: the classifier.
        source: where the images come from.
        labels: their labels, such as the names of their folders.

    Returns:
        Class indices; −1 where there is no label, where it is no class, and where the classifier
        does not choose one class.
    """
    is_value = classifier.output.name == "value"
    if not source.labelled or classifier.decision.is_multiple or is_value:
        return [-1] * len(labels)
    found = []
    for label in labels:
        try:
            found.append(-1 if label is None else classifier.index_of(label))
        except TargetError:  # a folder that is no class, such as a day
            found.append(-1)
    return found


def compute_logits(
    observer: Observer, source: ImageSource, report: ProgressCallback
) -> tuple[Logits, Tensor]:
    """Return the logits of all images, `images × classes`, and their classes; −1 for none.

    Args:
        observer: the classifier, with what stands before it.
        source: the images.
        report: receives a title, the number of finished images, and that of all.

    Returns:
        The logits, and class indices.

    Raises:
        ImagesError: too few images have a label that is a class.
    """
    classifier = observer.classifier
    logits: list[Tensor] = []
    labels: list[int] = []
    report(TITLE, 0, len(source))
    for batch in batches(source, classifier.prepare, BATCH):
        logits.append(observer(batch.images).logits.float().cpu())
        labels += find_labels(classifier, source, batch.labels)
        report(TITLE, len(labels), len(source))
    classes = torch.tensor(labels)
    if (known := int((classes >= 0).sum())) < FEWEST_LABELS:
        raise ImagesError(
            f"{source.name}: expected at least {FEWEST_LABELS} images whose label is a class of "
            f"the classifier, to calibrate with, got {known}"
        )
    return torch.cat(logits), classes


def calibrate_confidence(
    network: GuardNetwork, classifier: Classifier, logits: Logits, labels: Tensor
) -> dict[str, float]:
    """Fit the temperature of the confidence, and measure its error by two halves.

    Args:
        network: receives the temperature.
        classifier: the classifier.
        logits: logits of images, `images × classes`.
        labels: their true classes, below 0 where they are not known.

    Returns:
        What was measured; nothing where too few classes are known.
    """
    logits, labels = logits[labels >= 0], labels[labels >= 0]
    if len(labels) < FEWEST_LABELS:
        return {}
    targets = F.one_hot(labels, logits.shape[1]).to(logits)
    decision = classifier.decision
    correct = logits.argmax(1) == labels
    before, after = decision.probabilities(logits), torch.zeros_like(logits)
    half = torch.arange(len(labels)) % 2 == 0
    for part in (half, ~half):  # each half is measured with the temperature of the other
        temperature = fit_temperature(logits[~part], targets[~part], decision)
        after[part] = decision.probabilities(logits[part] / temperature)
    temperature = fit_temperature(logits, targets, decision)
    network.temperature.fill_(temperature)
    earlier, later = (
        measure_reliability(probabilities, targets, is_multiple=False)
        for probabilities in (before, after)
    )
    return {
        "accuracy": float(correct.float().mean()),
        "temperature": temperature,
        "calibration_images": float(len(labels)),
        "calibration_error_before": earlier.error,
        "calibration_error": later.error,
        "calibration_error_by_chance": later.chance_error,
    }
