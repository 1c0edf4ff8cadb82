"""Value noise: random numbers on a coarse lattice, smoothly joined. Exact operations only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from apercu.images.planted.draws import RandomStream

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
