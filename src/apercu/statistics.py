"""How sure a mean is."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
MAX_DRAWS = 1_000_000
NORMAL_QUANTILE = NormalDist().inv_cdf(0.975)


def bootstrap_interval(values: Float[np.ndarray, " images"], seed: int) -> tuple[float, float]:
    """The bootstrapped 95 % interval of the mean: percentiles of resampled means.

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
    """The 95 % interval of a share, by its score (Wilson 1927); for values that are 0 or 1.

    A share of 0 or 1 has an interval, too, which resampling does not see.

    >>> low, high = share_interval(np.ones(10))
    >>> round(low, 3), high
    (0.722, 1.0)
    """
    count, share = len(values), float(values.mean())
    weight = NORMAL_QUANTILE**2 / count
    middle = (share + weight / 2) / (1 + weight)
    reach = sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return max(0.0, min(share, middle - reach)), min(1.0, max(share, middle + reach))
