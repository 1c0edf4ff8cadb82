"""Outlines of objects and distractors; they share the same ones, so that none is evidence.

An outline maps (u, v) to a signed distance in radii: positive inside, zero on the edge.
"""

from __future__ import annotations

import numpy as np

from apercu.images.planted.noise import FloatArray, RandomStream, interpolate_points

REACH = 1.3
"""Largest distance of an outline from its centre, in radii."""

# cosine and sine of 360°·k/n, rounded so that they are the same on every machine
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


def draw_outline(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Draw an ellipse, a blob or a polygon of about the area of the unit disc.

    Args:
        random: The random numbers.
        u: Horizontal coordinate of each pixel, in radii.
        v: Vertical coordinate of each pixel, in radii.

    Returns:
        The signed distance of each pixel, in radii.
    """
    shape = random.integer_below(3)
    if shape == 0:
        stretch = random.uniform_between(0.85, 1.18)
        return 1 - np.sqrt(u * u * (stretch * stretch) + v * v / (stretch * stretch))
    if shape == 1:
        return _draw_blob(random, u, v)
    return _draw_polygon(random, u, v)


def _draw_blob(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Draw a disc whose edge is moved in and out by smooth noise."""
    lattice = 2 * random.uniform(4, 4) - 1
    rows, columns = (np.clip((axis + REACH) / REACH, 0, 2.999) for axis in (v, u))
    bulge = interpolate_points(lattice, rows, columns)
    return 1 + 0.28 * bulge - np.sqrt(u * u + v * v)


def _draw_polygon(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Draw a polygon of four to six sides, each at its own distance from the centre."""
    sides = 4 + random.integer_below(3)
    distances = random.uniform(sides) * 0.14 + 0.81
    inside = np.full(u.shape, REACH)
    for (x, y), distance in zip(_CORNERS[sides], distances, strict=True):
        inside = np.minimum(inside, distance - (x * u + y * v))
    return np.minimum(inside, REACH - np.sqrt(u * u + v * v))
