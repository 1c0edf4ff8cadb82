"""Random numbers that are the same, bit for bit, on every machine and with every NumPy.

NumPy promises that for the raw bits of a bit generator and for `SeedSequence`, not for the
distributions of `Generator`; so uniform numbers are made here, by exact operations only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


class RandomStream:
    """A stream of uniform numbers that belongs to one key."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, *shape: int) -> NDArray[np.float64]:
        """Numbers in [0, 1), 53 bits each."""
        raw: NDArray[np.uint64] = self._bits.random_raw(math.prod(shape))
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def uniform_between(self, low: float, high: float) -> float:
        """One number in [low, high)."""
        return low + (high - low) * float(self.uniform(1)[0])

    def integer_below(self, count: int) -> int:
        """One of 0 … count − 1."""
        return int(float(self.uniform(1)[0]) * count)

    def random_sign(self) -> float:
        """−1 or 1."""
        return -1.0 if self.integer_below(2) else 1.0

    def unit_vector(self) -> tuple[float, float]:
        """A unit vector, by the rational parametrisation of the circle (no sine, no cosine)."""
        t = self.uniform_between(-1.0, 1.0)
        along, across = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        quarter = self.integer_below(4)
        if quarter % 2:
            along, across = -across, along
        return (-along, -across) if quarter >= 2 else (along, across)
