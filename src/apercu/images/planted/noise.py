"""Random numbers and smooth noise that are the same, bit for bit, on every machine.

NumPy guarantees the raw bits of a bit generator and of `SeedSequence` in every version, but not
the distributions of `Generator`. So uniform numbers are computed here, by exact operations only.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class RandomStream:
    """A stream of random numbers that depends only on a key of whole numbers."""

    def __init__(self, *key: int) -> None:
        self._bits = np.random.PCG64(np.random.SeedSequence(key))

    def uniform(self, *shape: int) -> FloatArray:
        """Return an array of numbers in [0, 1), with 53 random bits each."""
        raw: NDArray[np.uint64] = self._bits.random_raw(math.prod(shape))
        return (raw >> np.uint64(11)).astype(np.float64).reshape(shape) * 2.0**-53

    def uniform_between(self, low: float, high: float) -> float:
        """Return one number in [low, high)."""
        return low + (high - low) * float(self.uniform(1)[0])

    def integer_below(self, count: int) -> int:
        """Return one whole number of 0 … count − 1."""
        return int(float(self.uniform(1)[0]) * count)

    def sign(self) -> float:
        """Return −1 or 1, with equal probability."""
        return -1.0 if self.integer_below(2) else 1.0

    def unit_vector(self) -> tuple[float, float]:
        """Return a unit vector, by the rational parametrisation of the circle."""
        t = self.uniform_between(-1.0, 1.0)
        along, across = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
        quarter = self.integer_below(4)
        if quarter % 2:
            along, across = -across, along
        return (-along, -across) if quarter >= 2 else (along, across)


def interpolate_grid(lattice: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Interpolate a lattice on a grid, with weights 3t² − 2t³, whose slope is continuous.

    Args:
        lattice: values at the knots, `… × m × n`.
        rows: fractional rows of the grid in the lattice.
        columns: fractional columns of the grid in the lattice.

    Returns:
        Values on the grid, `… × rows × columns`.
    """
    top, row_weights = _find_knots(rows, lattice.shape[-2])
    left, column_weights = _find_knots(columns, lattice.shape[-1])
    above = lattice[..., top, :]
    lines = above + (lattice[..., top + 1, :] - above) * row_weights[:, None]
    before = lines[..., left]
    return before + (lines[..., left + 1] - before) * column_weights


def interpolate_points(lattice: FloatArray, rows: FloatArray, columns: FloatArray) -> FloatArray:
    """Interpolate a lattice at single points, for objects that are rotated.

    Args:
        lattice: values at the knots, `m × n`.
        rows: fractional row of each point.
        columns: fractional column of each point.

    Returns:
        One value per point, in the shape of `rows`.
    """
    i, j = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    s, t = rows - i, columns - j
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    top = lattice[i, j] * (1 - t) + lattice[i, j + 1] * t
    return top * (1 - s) + (lattice[i + 1, j] * (1 - t) + lattice[i + 1, j + 1] * t) * s


def draw_octave(random: RandomStream, channels: int, size: int, cells: float) -> FloatArray:
    """Draw noise in [−1, 1), `channels × size × size`, with grains of `size / cells` pixels."""
    knots = int(cells) + 3
    lattice = 2 * random.uniform(channels, knots, knots) - 1
    shift = random.uniform(2)
    positions = np.arange(size) * (cells / size)
    return interpolate_grid(lattice, positions + shift[0], positions + shift[1])


def draw_natural_noise(random: RandomStream, channels: int, size: int, finest: float) -> FloatArray:
    """Draw noise with the spectrum of photographs: the finer an octave, the weaker it is.

    Args:
        random: the random numbers.
        channels: number of channels.
        size: height and width in pixels.
        finest: size of the smallest grains in pixels.

    Returns:
        Noise in about [−1, 1], `channels × size × size`.
    """
    total = np.zeros((channels, size, size))
    cells, amplitude = 2.0, 0.5
    while size / cells >= finest:
        total += amplitude * draw_octave(random, channels, size, cells)
        cells, amplitude = 2 * cells, 0.6 * amplitude
    return total


def _find_knots(positions: FloatArray, knots: int) -> tuple[NDArray[np.intp], FloatArray]:
    """Return the knot before each position, and the smooth weight of the knot after it."""
    before = np.minimum(np.floor(positions), knots - 2).astype(np.intp)
    t = positions - before
    return before, t * t * (3 - 2 * t)
