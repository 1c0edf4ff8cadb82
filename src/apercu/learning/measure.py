"""How good a classifier is on labelled images, with intervals over resampled images or groups."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Final, TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict
from torch import Tensor

from apercu.classifiers.calibration import measure_reliability
from apercu.classifiers.decisions import Decision
from apercu.types import Logits

RESAMPLES: Final = 1000
"""Resamples of a bootstrap interval."""

Numbers: TypeAlias = NDArray[np.float64]
FigureValue: TypeAlias = Annotated[
    float, BeforeValidator(lambda value: float("nan") if value is None else value)
]
"""A number that is `null` in JSON, and NaN in Python, where it cannot be measured."""


class MeasuredFigure(BaseModel):
    """One figure with its 95 % interval.

    Attributes:
        value: the figure; NaN where no class can be measured.
        ci95: both ends of its interval, over resampled images or groups.
        better: `higher` or `lower`.
    """

    model_config = ConfigDict(frozen=True)
    value: FigureValue
    ci95: tuple[FigureValue, FigureValue]
    better: str = "higher"

    @property
    def text(self) -> str:
        """The figure with its interval.

        >>> MeasuredFigure(value=0.5, ci95=(0.25, 0.75)).text
        '0.500 [0.250, 0.750]'
        """
        if np.isnan(self.value):
            return "not measured"
        return f"{self.value:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The probabilities of images whose classes are known.

    Args:
        probabilities: probabilities of all classes.
        predicted: classes that are predicted: 1 or 0.
        targets: classes that are true: 1 or 0; NaN where nobody knows, which no figure counts.
        is_multiple: whether each class is decided by itself.
    """

    probabilities: Float[np.ndarray, "images classes"]
    predicted: Float[np.ndarray, "images classes"]
    targets: Float[np.ndarray, "images classes"]
    is_multiple: bool

    @property
    def known(self) -> Bool[np.ndarray, "images classes"]:
        """Whether it is known of an image if it has a class."""
        return ~np.isnan(self.targets)

    @property
    def present(self) -> Float[np.ndarray, "images classes"]:
        """1 where an image is known to have a class, else 0."""
        return (self.targets == 1).astype(np.float64)

    @property
    def absent(self) -> Float[np.ndarray, "images classes"]:
        """1 where an image is known not to have a class, else 0."""
        return (self.targets == 0).astype(np.float64)

    @classmethod
    def from_logits(
        cls, logits: Logits, targets: Float[Tensor, "images classes"], decision: Decision
    ) -> Predictions:
        """Return the predictions of logits."""
        return cls(
            decision.probabilities(logits.double()).numpy(),
            decision.find_predicted(logits).double().numpy(),
            targets.double().numpy(),
            decision.is_multiple,
        )

    def choose(self, rows: NDArray[np.int64]) -> Predictions:
        """Return some of the images."""
        return Predictions(
            self.probabilities[rows], self.predicted[rows], self.targets[rows], self.is_multiple
        )


def accuracy(predictions: Predictions) -> float:
    """Return the fraction of the decisions that are right: images, or images × classes."""
    correct = predictions.predicted == predictions.targets
    if predictions.is_multiple:
        return float(correct.sum() / predictions.known.sum())
    return float(correct.all(1).mean())


def balanced_accuracy(predictions: Predictions) -> float:
    """Return the mean of the fractions of each class, and of its absence, that are recognised.

    For one class of an image it is the mean recall of the classes.
    """
    present, predicted = predictions.present, predictions.predicted
    recalls = [_divide((predicted * present).sum(0), present.sum(0))]
    if predictions.is_multiple:
        absent = predictions.absent
        recalls.append(_divide(((1 - predicted) * absent).sum(0), absent.sum(0)))
    return float(np.nanmean(np.stack(recalls)))


def auroc(predictions: Predictions) -> float:
    """Return the area under the receiver operating characteristic, the mean over the classes.

    It is the probability that an image of the class has a larger probability of it than an image
    of another class; equal ones count half.
    """
    return _average_classes(predictions, _compute_auroc)


def average_precision(predictions: Predictions) -> float:
    """Return the mean precision over the images of a class, the mean over the classes."""
    return _average_classes(predictions, _compute_average_precision)


def log_loss(predictions: Predictions) -> float:
    """Return the mean cross-entropy of the true classes, in nats.

    Where each class is decided by itself it is the sum over the classes; where some are not known,
    their number times the mean over those that are.
    """
    clamped = predictions.probabilities.clip(1e-12, 1 - 1e-12)
    terms = predictions.present * np.log(clamped)
    if predictions.is_multiple:
        terms = terms + predictions.absent * np.log(1 - clamped)
    return float(-terms.sum(1).mean() / predictions.known.mean())


def calibration_error(predictions: Predictions) -> float:
    """Return the expected calibration error over bins of confidence."""
    from torch import from_numpy

    return measure_reliability(
        from_numpy(predictions.probabilities),
        from_numpy(predictions.targets),
        is_multiple=predictions.is_multiple,
    ).error


MEASURES: Final[dict[str, tuple[Callable[[Predictions], float], str]]] = {
    "accuracy": (accuracy, "higher"),
    "balanced_accuracy": (balanced_accuracy, "higher"),
    "auroc": (auroc, "higher"),
    "average_precision": (average_precision, "higher"),
    "calibration_error": (calibration_error, "lower"),
    "log_loss": (log_loss, "lower"),
}
"""Figures by name, and which direction is better."""


def measure_predictions(
    predictions: Predictions, units: Sequence[str], seed: int
) -> dict[str, MeasuredFigure]:
    """Measure every figure, with intervals over resampled units.

    Args:
        predictions: probabilities and true classes.
        units: what is resampled as a whole: the group of each image, or its name.
        seed: seed of the resampling.

    Returns:
        Figures by name.
    """
    generator = np.random.default_rng(seed)
    members = _list_members(units)
    resampled = [
        predictions.choose(
            np.concatenate([members[i] for i in generator.integers(0, len(members), len(members))])
        )
        for _ in range(RESAMPLES)
    ]
    figures = {}
    for name, (measure, better) in MEASURES.items():
        values = np.array([measure(each) for each in resampled])
        finite = values[~np.isnan(values)]  # no interval where no image has a class, say
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan, np.nan)
        figures[name] = MeasuredFigure(
            value=measure(predictions), ci95=(float(low), float(high)), better=better
        )
    return figures


def count_confusions(predictions: Predictions) -> Int[np.ndarray, "classes classes"]:
    """Count how often each true class (rows) is predicted as each class (columns).

    Where each class is decided by itself, a cell counts images that have the class of the row and
    are predicted to have the class of the column.
    """
    return (predictions.present.T @ predictions.predicted).astype(np.int64)


def _list_members(units: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the indices of the images of each unit."""
    members: dict[str, list[int]] = {}
    for index, unit in enumerate(units):
        members.setdefault(unit, []).append(index)
    return [np.array(indices, dtype=np.int64) for indices in members.values()]


def _average_classes(
    predictions: Predictions, measure: Callable[[Numbers, Numbers], float]
) -> float:
    """Return the mean over the classes of which some images have them and some have not."""
    parts = (predictions.probabilities, predictions.targets, predictions.known)
    values = [
        measure(scores[known], labels[known])
        for scores, labels, known in zip(*(part.T for part in parts), strict=True)
        if 0 < labels[known].sum() < known.sum()
    ]
    return float(np.mean(values)) if values else float("nan")


def _compute_auroc(scores: Numbers, labels: Numbers) -> float:
    order = np.argsort(scores, kind="stable")
    ranked = scores[order]
    first = np.searchsorted(ranked, ranked, side="left")
    last = np.searchsorted(ranked, ranked, side="right")
    ranks = (first + last + 1) / 2
    positive = labels[order].sum()
    negative = len(labels) - positive
    total = float((ranks * labels[order]).sum())
    return (total - positive * (positive + 1) / 2) / (positive * negative)


def _compute_average_precision(scores: Numbers, labels: Numbers) -> float:
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], labels[order]
    ends = np.r_[np.flatnonzero(np.diff(ranked)), len(ranked) - 1]
    correct = hits.cumsum()[ends]
    recall = correct / hits.sum()
    precision = correct / (ends + 1)
    return float((np.diff(np.r_[0.0, recall]) * precision).sum())


def _divide(first: Numbers, second: Numbers) -> Numbers:
    """Divide two arrays; NaN where the second is 0."""
    return np.divide(first, second, out=np.full_like(first, np.nan), where=second > 0)
