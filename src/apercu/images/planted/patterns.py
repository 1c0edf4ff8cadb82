"""The classes of the planted set: what a pattern looks like in an object's own coordinates.

Each pattern maps (u, v), in which the object is about the unit disc, to a distance in the same
units: positive in the pattern's first colour, negative in its second. Exact operations only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apercu.images.planted.noise import Field, RandomStream, interpolate_points
from apercu.images.planted.outlines import REACH

Pattern = Callable[[Field, Field], Field]

_REPEATS = 1.8  # periods per radius


def _stripes(u: Field, v: Field) -> Field:
    return _wave(u)


def _dots(u: Field, v: Field) -> Field:
    across, down = _cell(u, 1.6), _cell(v, 1.6)
    return (0.33 - np.sqrt(across * across + down * down)) / 1.6


def _rings(u: Field, v: Field) -> Field:
    return _wave(np.sqrt(u * u + v * v))


def _zigzag(u: Field, v: Field) -> Field:
    return 0.7 * _wave(u + 1.1 * np.abs(_cell(v, 1.1)) / 1.1)


def _pinwheel(u: Field, v: Field) -> Field:
    return _triangle(_turns(u, v) * 1.25) * np.sqrt(u * u + v * v) / 4


def _cross(u: Field, v: Field) -> Field:
    x, y = np.abs(u), np.abs(v)
    return np.minimum(0.24 - np.minimum(x, y), 0.8 - np.maximum(x, y))


def _checker(u: Field, v: Field) -> Field:
    a, b = _wave(u), _wave(v)
    return np.where((a > 0) == (b > 0), 1.0, -1.0) * np.minimum(np.abs(a), np.abs(b))


def _spiral(u: Field, v: Field) -> Field:
    return _wave(np.sqrt(u * u + v * v) + _turns(u, v) / (2 * _REPEATS))


def _grid(u: Field, v: Field) -> Field:
    return (0.16 - np.minimum(np.abs(_cell(u, 1.6)), np.abs(_cell(v, 1.6)))) / 1.6


def _triangle_glyph(u: Field, v: Field) -> Field:
    return 0.4 - np.maximum(v, 0.866025 * np.abs(u) - 0.5 * v)


def _bricks(u: Field, v: Field) -> Field:
    row = np.floor(v * _REPEATS)
    bed = np.abs(_cell(v + 0.5 / _REPEATS, _REPEATS)) / _REPEATS
    joint = np.abs(_cell(u + row * 0.5, 1.0))
    return 0.09 - np.minimum(bed, joint)


def _squares(u: Field, v: Field) -> Field:
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
"""Class names in the order of their indices."""


def _wave(x: Field) -> Field:
    """Stripes across x: distance to the nearest edge, of alternating sign."""
    return _triangle(x * _REPEATS) / (4 * _REPEATS)


def _triangle(x: Field) -> Field:
    """The triangle wave of period 1 between −1 and 1."""
    return 1 - 4 * np.abs(x - np.floor(x + 0.5))


def _cell(x: Field, repeats: float) -> Field:
    """Place within a cell, −0.5 to 0.5, with so many cells per radius."""
    scaled = x * repeats
    return scaled - np.floor(scaled + 0.5)


def _turns(u: Field, v: Field) -> Field:
    """The angle as 0 to 4 once around, by a rational stand-in for the arc tangent."""
    sideways = u / np.maximum(np.abs(u) + np.abs(v), 1e-9)
    return np.where(v >= 0, 1 - sideways, 3 + sideways)


Distractor = Callable[[RandomStream, Field, Field], Field]


def _speckle(draws: RandomStream, u: Field, v: Field) -> Field:
    """Fine grains without any order."""
    return _value_noise(draws, u, v, 12)


def _camouflage(draws: RandomStream, u: Field, v: Field) -> Field:
    """Two tones in irregular patches, as coarse and as sharp as the classes' patterns."""
    return np.clip((_value_noise(draws, u, v, 6) - 0.5) * 8 + 0.5, 0, 1)


def _ramp(draws: RandomStream, u: Field, v: Field) -> Field:
    """One slow gradient."""
    return np.clip((u + 1) / 2, 0, 1)


def _halves(draws: RandomStream, u: Field, v: Field) -> Field:
    """Two tones with one straight edge."""
    return np.clip((u - draws.uniform_between(-0.4, 0.4)) * 10 + 0.5, 0, 1)


def _plain(draws: RandomStream, u: Field, v: Field) -> Field:
    """One tone."""
    return np.full(u.shape, float(draws.integer_below(2)))


DISTRACTORS: tuple[Distractor, ...] = (_speckle, _camouflage, _ramp, _halves, _plain)


def _value_noise(draws: RandomStream, u: Field, v: Field, knots: int) -> Field:
    """Value noise with so many knots across the object."""
    span = (knots - 1.001) / 2
    rows, columns = (np.clip((axis / REACH + 1) * span, 0, knots - 1.001) for axis in (v, u))
    return interpolate_points(draws.uniform(knots, knots), rows, columns)
