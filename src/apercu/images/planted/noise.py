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


Field = NDArray[np.float64]


def interpolate_grid(lattice: Field, rows: Field, columns: Field) -> Field:
    """The lattice (… × m × n) read at fractional rows and columns: … × rows × columns.

    Between knots the weights follow 3t² − 2t³, so that the slope has no corners.
    """
    down, below = _find_knots(rows, lattice.shape[-2])
    across, right = _find_knots(columns, lattice.shape[-1])
    top = lattice[..., down, :]
    lines = top + (lattice[..., down + 1, :] - top) * below[:, None]
    left = lines[..., across]
    return left + (lines[..., across + 1] - left) * right


def interpolate_points(lattice: Field, rows: Field, columns: Field) -> Field:
    """The lattice read at places that form no grid (the object is rotated)."""
    i, j = np.floor(rows).astype(np.intp), np.floor(columns).astype(np.intp)
    s, t = rows - i, columns - j
    s, t = s * s * (3 - 2 * s), t * t * (3 - 2 * t)
    top = lattice[i, j] * (1 - t) + lattice[i, j + 1] * t
    return top * (1 - s) + (lattice[i + 1, j] * (1 - t) + lattice[i + 1, j + 1] * t) * s


def draw_octave(draws: RandomStream, channels: int, size: int, cells: float) -> Field:
    """Noise in [−1, 1) whose grains are `size / cells` pixels wide: channels × size × size."""
    knots = int(cells) + 3
    lattice = 2 * draws.uniform(channels, knots, knots) - 1
    shift = draws.uniform(2)
    places = np.arange(size) * (cells / size)
    return interpolate_grid(lattice, places + shift[0], places + shift[1])


def draw_natural_noise(draws: RandomStream, channels: int, size: int, finest: float) -> Field:
    """Octaves whose height falls with their frequency, as in photographs: about [−1, 1].

    `finest` is the size in pixels of the smallest grains.
    """
    total = np.zeros((channels, size, size))
    cells, height = 2.0, 0.5
    while size / cells >= finest:
        total += height * draw_octave(draws, channels, size, cells)
        cells, height = 2 * cells, 0.6 * height
    return total


def _find_knots(places: Field, knots: int) -> tuple[NDArray[np.intp], Field]:
    """The knot before each place, and how far (smoothly) the place is on the way to the next."""
    before = np.minimum(np.floor(places), knots - 2).astype(np.intp)
    t = places - before
    return before, t * t * (3 - 2 * t)
