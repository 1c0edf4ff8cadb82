"""Intervals of means, fractions and medians; AUROC; paired tests; rank correlation; Gaussians.

Also a division that is safe where the divisor is 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from math import sqrt
from statistics import NormalDist
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.maps import min_max_scale
from apercu.types import Scores

RESAMPLES = 2000
"""Resampled means behind a bootstrap interval."""
AUROC_RESAMPLES = 1000
"""Resampled areas behind the interval of an AUROC."""
MAX_DRAWS = 1_000_000
"""Values that are drawn at a time, to bound the memory."""
NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)
FLIPS = 10_000
"""Random signs of a sign-flip test."""
SMALLEST_VARIANCE = 1e-9
"""Variance below which a component counts as constant, as a fraction of the largest one."""
Components: TypeAlias = Literal["all", "high", "low"]
"""Principal components of a covariance: all, or those of high or low variance."""


def bootstrap_interval(values: Float[np.ndarray, " images"], seed: int) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of the mean: percentiles of resampled means.

    The same seed and count draw the same images, so intervals of two rows can be compared.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, MAX_DRAWS // len(values))
    means: list[float] = []
    while len(means) < RESAMPLES:
        count = min(chunk, RESAMPLES - len(means))
        means.extend(values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def wilson_interval(values: Float[np.ndarray, " images"]) -> tuple[float, float]:
    """Return the 95 % score interval of a fraction (Wilson 1927), for values that are 0 or 1.

    A fraction of 0 or 1 has an interval, too, which resampling does not give.

    >>> low, high = wilson_interval(np.ones(10))
    >>> round(low, 3), high
    (0.722, 1.0)
    """
    count, fraction = len(values), float(values.mean())
    weight = NORMAL_QUANTILE**2 / count
    middle = (fraction + weight / 2) / (1 + weight)
    reach = sqrt(weight * (fraction * (1 - fraction) + weight / 4)) / (1 + weight)
    return max(0.0, min(fraction, middle - reach)), min(1.0, max(fraction, middle + reach))


def auroc(usual: Float[np.ndarray, " images"], other: Float[np.ndarray, " others"]) -> float:
    """Return the probability that an image of another kind has a higher score than a usual one.

    Equal scores count half.

    >>> auroc(np.array([0.0, 1.0]), np.array([1.0, 2.0]))
    0.875
    """
    order = np.sort(usual)
    below = np.searchsorted(order, other, "left") + np.searchsorted(order, other, "right")
    return float(below.mean() / 2 / len(usual))


def bootstrap_auroc(
    usual: Float[np.ndarray, " images"], other: Float[np.ndarray, " others"], seed: int
) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of `auroc`; both kinds of images are drawn again."""
    generator = np.random.default_rng(seed)
    areas = [
        auroc(generator.choice(usual, len(usual)), generator.choice(other, len(other)))
        for _ in range(AUROC_RESAMPLES)
    ]
    low, high = np.quantile(areas, [0.025, 0.975])
    return float(low), float(high)


def median_interval(values: Float[np.ndarray, " images"]) -> tuple[float, tuple[float, float]]:
    """Return the median and its 95 % interval.

    The ends are the values whose ranks lie as far from the middle as the fraction of values below
    the median may lie from one half.
    """
    reach = min(0.5, NORMAL_QUANTILE / 2 / len(values) ** 0.5)
    low, middle, high = np.quantile(values, [0.5 - reach, 0.5, 0.5 + reach])
    return float(middle), (float(low), float(high))


def sign_flip_test(differences: Float[np.ndarray, " images"], seed: int) -> float:
    """Return the two-sided p value of a mean difference; never below 1 / 10,001.

    If two explainers do equally well, each difference could as well have the other sign. The p
    value is the fraction of random signs that give a mean at least as far from 0.
    """
    sums = np.abs(_draw_signs(len(differences), seed) @ differences.astype(np.float32))
    rounding = 1e-5 * np.abs(differences).sum()
    return (int((sums >= abs(differences.sum()) - rounding).sum()) + 1) / (FLIPS + 1)


@lru_cache(maxsize=2)
def _draw_signs(count: int, seed: int) -> Float[np.ndarray, "flips images"]:
    draws = np.random.default_rng(seed).integers(0, 2, (FLIPS, count), dtype=np.int8)
    return (2 * draws - 1).astype(np.float32)


def adjust_holm(p: Mapping[str, float]) -> dict[str, float]:
    """Return p values that keep the chance of even one false finding below the level (Holm 1979).

    >>> adjust_holm({"a": 0.01, "b": 0.04, "c": 0.03})
    {'a': 0.03, 'c': 0.06, 'b': 0.06}
    """
    adjusted: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, p[name] * (len(p) - rank)))
        adjusted[name] = highest
    return adjusted


def spearman(first: Float[Tensor, "batch n"], second: Float[Tensor, "batch n"]) -> Scores:
    """Return the rank correlation, row by row; equal values share their mean rank.

    It is 0 where a row is constant. Stored results of stress tests hold these values to their last
    digits.
    """
    is_constant = (first.amin(1) == first.amax(1)) | (second.amin(1) == second.amax(1))
    ranks = (_rank_rows(first), _rank_rows(second))
    first, second = (rows - rows.mean(1, keepdim=True) for rows in ranks)
    lengths = first.norm(dim=1) * second.norm(dim=1)
    correlations = (first * second).sum(1) / lengths.clamp(min=1e-12)
    return torch.where(is_constant, 0.0, correlations).clamp(-1, 1)


def correlate_rows(first: Float[Tensor, "batch n"], second: Float[Tensor, "batch n"]) -> Scores:
    """Return Pearson's correlation, row by row; 0 where a row is constant."""
    return (_standardise_rows(first) * _standardise_rows(second)).sum(dim=1).clamp(-1, 1)


def divide_or(part: Tensor, whole: Tensor, otherwise: Tensor | float = 0.0) -> Tensor:
    """Divide where the divisor is above 0, and give another value elsewhere.

    Args:
        part: what is divided.
        whole: what it is divided by; not below 0, of the same shape.
        otherwise: the value where the divisor is 0.

    Returns:
        The quotients; their gradients are finite everywhere.

    >>> divide_or(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 0.0]))
    tensor([0.5000, 0.0000])
    """
    is_positive = whole > 0
    return torch.where(is_positive, part / whole.where(is_positive, 1), otherwise)


def _rank_rows(rows: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return ascending ranks from 1; equal values get the mean of theirs."""
    ranks = []
    for row in rows:
        _, indices, counts = row.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).float()
        ranks.append((last - (counts.float() - 1) / 2)[indices])
    return torch.stack(ranks)


def _standardise_rows(rows: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return centred rows of length 1; zeros for constant rows.

    They are stretched to [0, 1] first, so that rounding cannot make a constant row vary.
    """
    stretched = min_max_scale(rows[:, None])[:, 0]
    return F.normalize(stretched - stretched.mean(dim=1, keepdim=True), dim=1)


class WhitenedGaussian(NamedTuple):
    """A Gaussian as mean and whitening matrix: the distance of x is |whitening (x − mean)|.

    Attributes:
        mean: mean of the features.
        whitening: principal directions over the roots of their variances, `components × features`.
    """

    mean: Float[Tensor, " features"]
    whitening: Float[Tensor, "components features"]


def shrink_covariance(
    covariance: Float[Tensor, "features features"], fourth: float, count: int
) -> Float[Tensor, "features features"]:
    """Return a covariance that is shrunk to a multiple of the identity (Ledoit and Wolf 2004).

    Args:
        covariance: mean of the products of centred features.
        fourth: sum over the images of the fourth powers of the lengths of centred features.
        count: number of images.

    Returns:
        The covariance with the smallest expected error.
    """
    size = len(covariance)
    mean_variance = float(covariance.trace()) / size
    squared = float(covariance.square().sum())
    noise = (fourth / count - squared) / (size * count)
    spread = (squared - size * mean_variance**2) / size
    shrinkage = 0.0 if spread <= 0 else min(max(noise, 0.0), spread) / spread
    identity = torch.eye(size, dtype=covariance.dtype)
    return (1 - shrinkage) * covariance + shrinkage * mean_variance * identity


def build_gaussian(
    mean: Tensor, covariance: Tensor, components: Components = "all", variance: float = 0.99
) -> WhitenedGaussian:
    """Return a Gaussian of some principal components of a covariance.

    Args:
        mean: mean of the features.
        covariance: covariance of the features, `features × features`.
        components: whether `all` components are kept, those of `high` or those of `low` variance.
        variance: fraction of the variance that the components of high variance explain.

    Returns:
        The Gaussian; at least one component is kept.
    """
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    values = values.clamp(min=max(float(values[-1]) * SMALLEST_VARIANCE, 1e-12))
    explained = values.flip(0).cumsum(0) / values.sum()
    high = min(int((explained < variance).sum()) + 1, len(values))
    if components == "high":
        values, vectors = values[-high:], vectors[:, -high:]
    elif components == "low":
        low = max(1, len(values) - high)
        values, vectors = values[:low], vectors[:, :low]
    return WhitenedGaussian(mean, (vectors / values.sqrt()).T.contiguous())
