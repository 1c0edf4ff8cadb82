"""How sure a mean is."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

RESAMPLES = 2000
AT_ONCE = 1_000_000


def interval(values: Float[np.ndarray, " images"], seed: int) -> tuple[float, float]:
    """The bootstrapped 95 % interval of the mean: percentiles of resampled means.

    The same seed and count draw the same images, so intervals of two rows can be compared.
    """
    generator = np.random.default_rng(seed)
    chunk = max(1, AT_ONCE // len(values))
    means: list[float] = []
    while len(means) < RESAMPLES:
        count = min(chunk, RESAMPLES - len(means))
        means.extend(values[generator.integers(0, len(values), (count, len(values)))].mean(axis=1))
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)
