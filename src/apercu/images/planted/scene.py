"""Paint one planted picture: a natural background, distractors, and the objects on top."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.images.planted.noise import FloatArray, RandomStream, draw_natural_noise
from apercu.images.planted.patterns import (
    DISTRACTORS,
    PATTERNS,
    REACH,
    Distractor,
    Pattern,
    draw_outline,
)

_PATTERNS = tuple(PATTERNS.values())
_LUMA = 0.75  # fraction of the contrast of a texture that is brightness; the rest is hue
_SATURATION = 0.35  # largest deviation of the background's hues from grey
_MAX_TRIES = 12


class SceneStyle(NamedTuple):
    """The properties of a scene that depend on its difficulty.

    Attributes:
        smallest: smallest area of a shape, as a fraction of the picture.
        largest: largest area of a shape, as a fraction of the picture.
        contrast: contrast of the two colours of a shape.
        background: contrast of the background.
        distractors: number of distractors.
    """

    smallest: float
    largest: float
    contrast: float
    background: float
    distractors: int

    @classmethod
    def from_difficulty(cls, difficulty: float) -> SceneStyle:
        """Build the style of a difficulty from 0 (easy) to 1 (hard)."""
        return cls(
            smallest=0.13 - 0.10 * difficulty,
            largest=0.25 - 0.10 * difficulty,
            contrast=0.40 - 0.24 * difficulty,
            background=0.25 + 0.35 * difficulty,
            distractors=1 + round(4 * difficulty),
        )


class ShapeLocation(NamedTuple):
    """The centre (x, y) and the radius of a shape, in pixels."""

    x: float
    y: float
    radius: float


Texture = Callable[[FloatArray, FloatArray, float], FloatArray]
"""(u, v, size of a pixel in radii) -> share of the first of two colours."""


def paint_scene(
    random: RandomStream, classes: list[int], shape: tuple[int, int], style: SceneStyle
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paint a picture with one object of each class.

    Args:
        random: the random numbers.
        classes: class index of each object; the first object lies on top.
        shape: channels, and height and width in pixels.
        style: sizes, contrasts, and number of distractors.

    Returns:
        The picture, `channels × size × size`, and the visible region of each object,
        `objects × size × size`.
    """
    channels, size = shape
    canvas = _paint_background(random, channels, size, style.background)
    locations = _choose_locations(random, len(classes), size, style)
    for location in locations[len(classes) :]:
        distractor = DISTRACTORS[random.integer_below(len(DISTRACTORS))]
        texture = partial(_fill_distractor, distractor, random)
        _paint_shape(canvas, random, location, texture, style.contrast)
    regions = np.zeros((len(classes), size, size), dtype=bool)
    for index in reversed(range(len(classes))):  # the first object lies on top
        pattern = partial(_soften_pattern, _PATTERNS[classes[index]])
        covered = _paint_shape(canvas, random, locations[index], pattern, style.contrast)
        regions &= ~covered
        regions[index] = covered
    grain = 0.03 * (random.uniform(channels, size, size) - 0.5)
    return np.rint(np.clip(canvas + grain, 0, 1) * 255).astype(np.uint8), regions


def _paint_background(
    random: RandomStream, channels: int, size: int, strength: float
) -> FloatArray:
    """Paint a gradient of two muted colours, with noise that has the spectrum of photographs."""
    tones = 0.25 + 0.5 * random.uniform(2, 1) + _SATURATION * (random.uniform(2, channels) - 0.5)
    x, y = random.unit_vector()
    axis = np.arange(size) / size - 0.5
    ramp = np.clip(0.5 + x * axis + y * axis[:, None], 0, 1)
    light = draw_natural_noise(random, 1, size, 2.0)
    hue = draw_natural_noise(random, channels, size, 12.0)
    base = tones[0][:, None, None] * ramp + tones[1][:, None, None] * (1 - ramp)
    return base + strength * (light + _SATURATION * hue)


def _choose_locations(
    random: RandomStream, objects: int, size: int, style: SceneStyle
) -> list[ShapeLocation]:
    """Choose locations for the objects, then for the distractors, with little overlap."""
    locations: list[ShapeLocation] = []
    for crowd in (objects,) * objects + (1,) * style.distractors:
        area = random.uniform_between(style.smallest, style.largest) / max(1.0, crowd / 2)
        radius = size * math.sqrt(area / math.pi)
        margin = min(1.05 * radius, size / 2)
        centres = (margin + random.uniform(_MAX_TRIES, 2) * (size - 2 * margin)).tolist()
        gaps = [
            min([_compute_gap(x, y, other) - radius for other in locations] + [0.0])
            for x, y in centres
        ]
        x, y = centres[gaps.index(max(gaps))]
        locations.append(ShapeLocation(x, y, radius))
    return locations


def _compute_gap(x: float, y: float, location: ShapeLocation) -> float:
    """Return the distance of a point from the circle of a shape, in pixels."""
    across, down = x - location.x, y - location.y
    return math.sqrt(across * across + down * down) - location.radius


def _soften_pattern(pattern: Pattern, u: FloatArray, v: FloatArray, pixel: float) -> FloatArray:
    """Return a pattern whose edges are one pixel soft."""
    return np.clip(pattern(u, v) / pixel + 0.5, 0, 1)


def _fill_distractor(
    distractor: Distractor, random: RandomStream, u: FloatArray, v: FloatArray, pixel: float
) -> FloatArray:
    """Return the texture of a distractor; the size of a pixel makes no difference."""
    return distractor(random, u, v)


def _paint_shape(
    canvas: FloatArray,
    random: RandomStream,
    location: ShapeLocation,
    texture: Texture,
    contrast: float,
) -> NDArray[np.bool_]:
    """Paint one shape on the canvas; returns the pixels of which it covers at least half."""
    size = canvas.shape[1]
    window, u, v = _compute_coordinates(random, location, size)
    pixel = 1 / location.radius
    distance = draw_outline(random, u, v)
    alpha = np.clip(distance / pixel + 0.5, 0, 1)
    shade = 0.7 + 0.3 * np.clip(distance * 5, 0, 1) + 0.1 * v
    first, second = _choose_colours(random, canvas.shape[0], contrast)
    share = texture(u, v, pixel)
    colour = (second[:, None, None] + (first - second)[:, None, None] * share) * shade
    region = canvas[:, window[0], window[1]]
    region += (colour - region) * alpha
    covered = np.zeros((size, size), dtype=bool)
    covered[window] = alpha >= 0.5
    return covered


def _compute_coordinates(
    random: RandomStream, location: ShapeLocation, size: int
) -> tuple[tuple[slice, slice], FloatArray, FloatArray]:
    """Return the window around a shape, and the rotated coordinates of its pixels in radii."""
    reach = REACH * location.radius + 1
    left, right = max(0, int(location.x - reach)), min(size, int(location.x + reach) + 1)
    top, bottom = max(0, int(location.y - reach)), min(size, int(location.y + reach) + 1)
    along, across = random.unit_vector()
    x = (np.arange(left, right) + 0.5 - location.x) / location.radius
    y = ((np.arange(top, bottom) + 0.5 - location.y) / location.radius)[:, None]
    window = (slice(top, bottom), slice(left, right))
    return window, x * along + y * across, y * along - x * across


def _choose_colours(
    random: RandomStream, channels: int, contrast: float
) -> tuple[FloatArray, FloatArray]:
    """Choose two colours, at equal distance from a random middle; either may be the brighter."""
    middle = 0.3 + 0.4 * random.uniform(channels)
    hue = 2 * random.uniform(channels) - 1
    offset = contrast * (random.sign() * _LUMA + (1 - _LUMA) * hue)
    return np.clip(middle + offset, 0, 1), np.clip(middle - offset, 0, 1)
