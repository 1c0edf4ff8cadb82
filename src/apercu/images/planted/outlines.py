"""The shapes that objects and distractors share, so that an outline tells nothing.

Each outline maps (u, v) to a distance in radii: positive inside, zero on the rim.
"""

from __future__ import annotations

import numpy as np

from apercu.images.planted.noise import Field, RandomStream, interpolate_points

REACH = 1.3
"""No outline reaches farther from its centre, in radii."""

# cosine and sine of 360°·k/n, rounded so that every machine has the same
_CORNERS = {
    4: ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0)),
    5: (
        (1.0, 0.0),
        (0.309017, 0.951057),
        (-0.809017, 0.587785),
        (-0.809017, -0.587785),
        (0.309017, -0.951057),
    ),
    6: (
        (1.0, 0.0),
        (0.5, 0.866025),
        (-0.5, 0.866025),
        (-1.0, 0.0),
        (-0.5, -0.866025),
        (0.5, -0.866025),
    ),
}


def draw_outline(draws: RandomStream, u: Field, v: Field) -> Field:
    """An ellipse, a blob or a polygon of about the area of the unit disc."""
    shape = draws.integer_below(3)
    if shape == 0:
        stretch = draws.uniform_between(0.85, 1.18)
        return 1 - np.sqrt(u * u * (stretch * stretch) + v * v / (stretch * stretch))
    if shape == 1:
        return _blob(draws, u, v)
    return _polygon(draws, u, v)


def _blob(draws: RandomStream, u: Field, v: Field) -> Field:
    """A disc whose rim is moved in and out by one slow wave of noise."""
    lattice = 2 * draws.uniform(4, 4) - 1
    rows, columns = (np.clip((axis + REACH) / REACH, 0, 2.999) for axis in (v, u))
    bulge = interpolate_points(lattice, rows, columns)
    return 1 + 0.28 * bulge - np.sqrt(u * u + v * v)


def _polygon(draws: RandomStream, u: Field, v: Field) -> Field:
    """Four to six sides, each at its own distance from the centre."""
    sides = 4 + draws.integer_below(3)
    distances = draws.uniform(sides) * 0.14 + 0.81
    inside = np.full(u.shape, REACH)
    for (x, y), distance in zip(_CORNERS[sides], distances, strict=True):
        inside = np.minimum(inside, distance - (x * u + y * v))
    return np.minimum(inside, REACH - np.sqrt(u * u + v * v))
