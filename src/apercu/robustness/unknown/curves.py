"""How well scores separate known from unknown images: areas under curves, with intervals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from apercu.statistics import auroc

RESAMPLES = 200
"""Resamples of a bootstrap interval."""


class CurveValues(NamedTuple):
    """How well scores separate unknown images, which should have higher ones.

    Attributes:
        auroc: probability that an unknown image has a higher score than a known one.
        aupr_in: mean precision where known images are the positive ones.
        aupr_out: mean precision where unknown images are the positive ones.
        fpr95: fraction of unknown images below the score that 95 % of the known ones do not exceed.
    """

    auroc: float
    aupr_in: float
    aupr_out: float
    fpr95: float


class CurveIntervals(NamedTuple):
    """Both ends of the 95 % interval of each of `CurveValues`.

    Attributes:
        auroc: interval of the area under the curve.
        aupr_in: interval of the mean precision of known images.
        aupr_out: interval of the mean precision of unknown images.
        fpr95: interval of the fraction of unknown images that pass.
    """

    auroc: tuple[float, float]
    aupr_in: tuple[float, float]
    aupr_out: tuple[float, float]
    fpr95: tuple[float, float]


def compute_curves(
    known: Float[np.ndarray, " known"], unknown: Float[np.ndarray, " unknown"]
) -> CurveValues:
    """Return how well scores separate unknown from known images; equal scores count half.

    Args:
        known: scores of known images.
        unknown: scores of unknown images.

    Returns:
        The areas and fractions.

    >>> compute_curves(np.array([0.0, 1.0]), np.array([1.0, 2.0])).auroc
    0.875
    """
    scores = np.concatenate([known, unknown])
    is_unknown = np.arange(len(scores)) >= len(known)
    limit = np.sort(known)[int(np.ceil(0.95 * len(known))) - 1]
    return CurveValues(
        auroc(known, unknown),
        compute_mean_precision(-scores, ~is_unknown),
        compute_mean_precision(scores, is_unknown),
        float((unknown <= limit).mean()),
    )


def compute_mean_precision(
    scores: Float[np.ndarray, " images"], positive: Bool[np.ndarray, " images"]
) -> float:
    """Return the area under the curve of precision over recall, as steps.

    Args:
        scores: scores, which should be higher for positive images.
        positive: which images are positive, at least one.

    Returns:
        The precision at each threshold, weighted by the recall that is gained there.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order], np.cumsum(positive[order])
    is_last = np.append(ordered[1:] != ordered[:-1], True)
    found, counts = hits[is_last], np.flatnonzero(is_last) + 1
    gained = np.diff(found, prepend=0) / hits[-1]
    return float((gained * found / counts).sum())


def resample_curves(
    known: Float[np.ndarray, " known"], unknown: Float[np.ndarray, " unknown"], seed: int
) -> CurveIntervals:
    """Return bootstrapped 95 % intervals of `compute_curves`; both sets are drawn again.

    Args:
        known: scores of known images.
        unknown: scores of unknown images.
        seed: seed of the draws.

    Returns:
        The intervals.
    """
    generator = np.random.default_rng(seed)
    values = np.array(
        [
            compute_curves(
                generator.choice(known, len(known)), generator.choice(unknown, len(unknown))
            )
            for _ in range(RESAMPLES)
        ]
    )
    ends = np.quantile(values, [0.025, 0.975], axis=0).T
    return CurveIntervals(*((float(low), float(high)) for low, high in ends))
