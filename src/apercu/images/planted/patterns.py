"""Outlines of objects, patterns that are the classes of the planted set, textures of distractors.

Objects and distractors share the outlines, so that none is evidence. An outline maps (u, v) to a
signed distance in radii: positive inside, zero on the edge.

A pattern maps the coordinates (u, v) of an object, in radii, to a signed distance in radii:
positive in the first colour, negative in the second. A distractor maps them to a share of the first
colour in [0, 1]. All operations are exact, so that the pictures are the same on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

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

Pattern = Callable[[FloatArray, FloatArray], FloatArray]
"""(u, v) -> signed distance to the nearest edge of the pattern."""
Distractor = Callable[[RandomStream, FloatArray, FloatArray], FloatArray]
"""(random numbers, u, v) -> share of the first colour."""

_REPEATS = 1.8  # periods per radius


def _stripes(u: FloatArray, v: FloatArray) -> FloatArray:
    return _wave(u)


def _dots(u: FloatArray, v: FloatArray) -> FloatArray:
    across, down = _cell(u, 1.6), _cell(v, 1.6)
    return (0.33 - np.sqrt(across * across + down * down)) / 1.6


def _rings(u: FloatArray, v: FloatArray) -> FloatArray:
    return _wave(np.sqrt(u * u + v * v))


def _zigzag(u: FloatArray, v: FloatArray) -> FloatArray:
    return 0.7 * _wave(u + 1.1 * np.abs(_cell(v, 1.1)) / 1.1)


def _pinwheel(u: FloatArray, v: FloatArray) -> FloatArray:
    return _triangle(_turns(u, v) * 1.25) * np.sqrt(u * u + v * v) / 4


def _cross(u: FloatArray, v: FloatArray) -> FloatArray:
    x, y = np.abs(u), np.abs(v)
    return np.minimum(0.24 - np.minimum(x, y), 0.8 - np.maximum(x, y))


def _checker(u: FloatArray, v: FloatArray) -> FloatArray:
    a, b = _wave(u), _wave(v)
    return np.where((a > 0) == (b > 0), 1.0, -1.0) * np.minimum(np.abs(a), np.abs(b))


def _spiral(u: FloatArray, v: FloatArray) -> FloatArray:
    return _wave(np.sqrt(u * u + v * v) + _turns(u, v) / (2 * _REPEATS))


def _grid(u: FloatArray, v: FloatArray) -> FloatArray:
    return (0.16 - np.minimum(np.abs(_cell(u, 1.6)), np.abs(_cell(v, 1.6)))) / 1.6


def _triangle_glyph(u: FloatArray, v: FloatArray) -> FloatArray:
    return 0.4 - np.maximum(v, 0.866025 * np.abs(u) - 0.5 * v)


def _bricks(u: FloatArray, v: FloatArray) -> FloatArray:
    row = np.floor(v * _REPEATS)
    bed = np.abs(_cell(v + 0.5 / _REPEATS, _REPEATS)) / _REPEATS
    joint = np.abs(_cell(u + row * 0.5, 1.0))
    return 0.09 - np.minimum(bed, joint)


def _squares(u: FloatArray, v: FloatArray) -> FloatArray:
    return _wave(np.maximum(np.abs(u), np.abs(v)))


PATTERNS: dict[str, Pattern] = {
    "stripes": _stripes,
    "dots": _dots,
    "rings": _rings,
    "zigzag": _zigzag,
    "pinwheel": _pinwheel,
    "cross": _cross,
    "checker": _checker,
    "spiral": _spiral,
    "grid": _grid,
    "triangle": _triangle_glyph,
    "bricks": _bricks,
    "squares": _squares,
}
"""The pattern of each class, in the order of the class indices."""


def _wave(x: FloatArray) -> FloatArray:
    """Return stripes across x: the signed distance to the nearest edge."""
    return _triangle(x * _REPEATS) / (4 * _REPEATS)


def _triangle(x: FloatArray) -> FloatArray:
    """Return the triangle wave of period 1 between −1 and 1."""
    return 1 - 4 * np.abs(x - np.floor(x + 0.5))


def _cell(x: FloatArray, repeats: float) -> FloatArray:
    """Return the position within a cell, −0.5 to 0.5, for a number of cells per radius."""
    scaled = x * repeats
    return scaled - np.floor(scaled + 0.5)


def _turns(u: FloatArray, v: FloatArray) -> FloatArray:
    """Return the angle as 0 to 4, by a rational function in place of the arc tangent."""
    cosine = u / np.maximum(np.abs(u) + np.abs(v), 1e-9)
    return np.where(v >= 0, 1 - cosine, 3 + cosine)


def _speckle(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return fine grains without order."""
    return _value_noise(random, u, v, 12)


def _camouflage(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return two tones in irregular patches, as coarse and as sharp as the patterns."""
    return np.clip((_value_noise(random, u, v, 6) - 0.5) * 8 + 0.5, 0, 1)


def _ramp(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return one slow gradient."""
    return np.clip((u + 1) / 2, 0, 1)


def _halves(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return two tones with one straight edge."""
    return np.clip((u - random.uniform_between(-0.4, 0.4)) * 10 + 0.5, 0, 1)


def _plain(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Return one tone everywhere."""
    return np.full(u.shape, float(random.integer_below(2)))


DISTRACTORS: tuple[Distractor, ...] = (_speckle, _camouflage, _ramp, _halves, _plain)
"""Textures that no class uses."""


def _value_noise(random: RandomStream, u: FloatArray, v: FloatArray, knots: int) -> FloatArray:
    """Return value noise with a number of knots across the object."""
    span = (knots - 1.001) / 2
    rows, columns = (np.clip((axis / REACH + 1) * span, 0, knots - 1.001) for axis in (v, u))
    return interpolate_points(random.uniform(knots, knots), rows, columns)


def draw_outline(random: RandomStream, u: FloatArray, v: FloatArray) -> FloatArray:
    """Draw an ellipse, a blob or a polygon of about the area of the unit disc.

    Args:
        random: the random numbers.
        u: horizontal coordinate of each pixel, in radii.
        v: vertical coordinate of each pixel, in radii.

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
