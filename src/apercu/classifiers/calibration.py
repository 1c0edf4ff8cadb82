"""Calibration: one temperature for all logits, and how far probabilities are from frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from jaxtyping import Float
from torch import Tensor

from apercu.classifiers.decisions import Decision
from apercu.log import warn
from apercu.types import Logits, Scores

BINS: Final = 15
"""Bins of confidence in a calibration diagram."""
GOOD_CALIBRATION: Final = 0.03
"""Calibration error up to which confidences are near to frequencies."""
CHANCE_FACTOR: Final = 1.5
"""Errors of perfect confidences exceed this multiple of their mean in about one test of twenty."""
PRIOR_SPREAD: Final = 1.0
"""Standard deviation of the logarithm of the temperature before any image is seen.

Few images that are all classified correctly would ask for a temperature of 0.
"""
RANGE: Final = (math.log(1 / 20), math.log(20.0))
"""Logarithms of the smallest and the largest temperature."""
LIMIT_MARGIN: Final = 1e-3
"""Distance from an end of the range, in logarithms, up to which a temperature lies at it."""
_GOLDEN: Final = (5**0.5 - 1) / 2


def fit_temperature(
    logits: Logits, targets: Float[Tensor, "images classes"], decision: Decision
) -> float:
    """Return the temperature under which the labels are most probable (Guo et al. 2017).

    Where it lies at an end of its range, which is too small for these logits, a warning says so.
    The predicted classes stay as they are. The cross-entropy is convex in the inverse of the
    temperature, so that a golden-section search finds the best one.

    Args:
        logits: logits of images that nothing was trained on.
        targets: their true probabilities: 0 or 1; NaN, where each class is decided by itself and
            nobody knows, is not counted.
        decision: how logits become probabilities.

    Returns:
        The number by which logits are divided.
    """
    logits, targets = logits.double(), targets.double()
    is_known = ~targets.isnan()
    if decision.is_multiple and not is_known.all():
        logits, targets = logits[is_known][:, None], targets[is_known][:, None]

    def compute_cost(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        prior = log_temperature**2 / (2 * PRIOR_SPREAD**2)
        return float(decision.cross_entropy(scaled, targets).sum()) + prior

    low, high = RANGE
    for _ in range(60):
        reach = _GOLDEN * (high - low)
        left, right = high - reach, low + reach
        if compute_cost(left) < compute_cost(right):
            high = right
        else:
            low = left
    temperature = math.exp((low + high) / 2)
    if is_at_limit(temperature):
        warn(f"temperature: {describe_limit(temperature)}")
    return temperature


def is_at_limit(temperature: float) -> bool:
    """Whether a fitted temperature lies at an end of its range, so that a better one may not."""
    return min(abs(math.log(temperature) - end) for end in RANGE) < LIMIT_MARGIN


def describe_limit(temperature: float) -> str:
    """Describe a temperature at an end of its range, and what to do, in one line."""
    end, size, rate = ("largest", "large", "lower")
    if temperature < 1:
        end, size, rate = ("smallest", "small", "higher")
    return (
        f"{temperature:.3g} is the {end} that is tried, and the logits are still too {size}, so "
        "the probabilities are not calibrated; check the labels of the calibration part, or train "
        f"with a {rate} rate"
    )


@dataclass(frozen=True, eq=False)
class Reliability:
    """How often predictions of a confidence are right, bin by bin.

    Args:
        confidence: mean confidence of the predictions in each bin.
        accuracy: fraction of them that are right.
        counts: number of predictions in each bin.
    """

    confidence: tuple[float, ...]
    accuracy: tuple[float, ...]
    counts: tuple[int, ...]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean distance of the two, weighted by the counts."""
        total = max(1, sum(self.counts))
        rows = zip(self.confidence, self.accuracy, self.counts, strict=True)
        return sum(count * abs(first - second) for first, second, count in rows) / total

    @property
    def chance_error(self) -> float:
        """The error to be expected of perfect confidences, which is not 0 for few predictions.

        In each bin the number of right predictions is then binomial; this is its mean absolute
        deviation in closed form (De Moivre), over the number of predictions.
        """
        total = max(1, sum(self.counts))
        rows = zip(self.confidence, self.counts, strict=True)
        return sum(_compute_binomial_deviation(count, chance) for chance, count in rows) / total

    @property
    def is_good(self) -> bool:
        """Whether the error is small, or no larger than that of perfect confidences may be."""
        return self.error <= max(GOOD_CALIBRATION, CHANCE_FACTOR * self.chance_error)


def _compute_binomial_deviation(count: int, chance: float) -> float:
    """Return the mean distance of a binomial number from its mean."""
    if not 0 < chance < 1:
        return 0.0
    above = min(int(count * chance) + 1, count)  # the first number above the mean
    logarithm = (
        math.lgamma(count + 1)
        - math.lgamma(above + 1)
        - math.lgamma(count - above + 1)
        + above * math.log(chance)
        + (count - above + 1) * math.log1p(-chance)
    )
    return 2 * above * math.exp(logarithm)


def measure_reliability(
    probabilities: Float[Tensor, "images classes"],
    targets: Float[Tensor, "images classes"],
    *,
    is_multiple: bool,
    bins: int = BINS,
) -> Reliability:
    """Compare confidences with frequencies.

    Args:
        probabilities: probabilities of all classes.
        targets: true probabilities: 0 or 1; NaN, where each class is decided by itself and nobody
            knows, is not counted.
        is_multiple: whether each class is decided by itself. Then the confidence of each class is
            compared; else that of the predicted class.
        bins: number of bins of equal width.

    Returns:
        The bins that hold predictions, from the least confident on.
    """
    confidence, correct = find_confidences(probabilities, targets, is_multiple=is_multiple)
    index = (confidence * bins).long().clamp(max=bins - 1)
    rows = [index == number for number in range(bins) if bool((index == number).any())]
    return Reliability(
        tuple(float(confidence[row].mean()) for row in rows),
        tuple(float(correct[row].mean()) for row in rows),
        tuple(int(row.sum()) for row in rows),
    )


def find_confidences(
    probabilities: Float[Tensor, "images classes"],
    targets: Float[Tensor, "images classes"],
    *,
    is_multiple: bool,
) -> tuple[Scores, Scores]:
    """Return the confidence of each prediction, and whether it is right, 1 or 0.

    Args:
        probabilities: probabilities of all classes.
        targets: true probabilities: 0 or 1; NaN where nobody knows.
        is_multiple: whether each class is decided by itself.

    Returns:
        Two numbers per image, or two per image and class that is known.
    """
    probabilities, targets = probabilities.double(), targets.double()
    if is_multiple:
        is_known = ~targets.isnan()
        return probabilities[is_known], targets[is_known]
    top = probabilities.max(1)
    return top.values, targets.gather(1, top.indices[:, None])[:, 0]
