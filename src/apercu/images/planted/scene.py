"""One planted picture: a natural background, shapes that mean nothing, and the objects on top."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.images.planted.noise import Field, RandomStream, draw_natural_noise
from apercu.images.planted.outlines import REACH, draw_outline
from apercu.images.planted.patterns import DISTRACTORS, PATTERNS, Distractor, Pattern

_PATTERNS = tuple(PATTERNS.values())
_LUMA = 0.75  # share of a texture's contrast that is brightness, the rest is hue
_MUTED = 0.35  # how far hues stray from grey in the background
_MAX_TRIES = 12


class SceneStyle(NamedTuple):
    """What `difficulty` changes; areas are shares of the picture."""

    smallest: float
    largest: float
    contrast: float
    background: float
    distractors: int

    @classmethod
    def from_difficulty(cls, difficulty: float) -> SceneStyle:
        """From 0, large and plain to see, to 1, small and faint among many distractors."""
        return cls(
            smallest=0.13 - 0.10 * difficulty,
            largest=0.25 - 0.10 * difficulty,
            contrast=0.40 - 0.24 * difficulty,
            background=0.25 + 0.35 * difficulty,
            distractors=1 + round(4 * difficulty),
        )


class ShapeLocation(NamedTuple):
    """Where a shape lies: centre (x, y) and radius in pixels."""

    x: float
    y: float
    radius: float


Texture = Callable[[Field, Field, float], Field]
"""(u, v, size of a pixel) -> share of the first of two colours."""


def paint_scene(
    draws: RandomStream, classes: list[int], shape: tuple[int, int], style: SceneStyle
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Paints one object of each class: the picture, and the visible region of each object.

    `shape` is (channels, size); the results are channels × size × size and objects × size × size.
    """
    channels, size = shape
    canvas = _paint_background(draws, channels, size, style.background)
    places = _choose_locations(draws, (len(classes), style.distractors), size, style)
    for place in places[len(classes) :]:
        kind = DISTRACTORS[draws.integer_below(len(DISTRACTORS))]
        _paint_shape(canvas, draws, place, partial(_fill_distractor, kind, draws), style.contrast)
    regions = np.zeros((len(classes), size, size), dtype=bool)
    for index in reversed(range(len(classes))):  # the first object lies on top
        pattern = partial(_soften_pattern, _PATTERNS[classes[index]])
        covered = _paint_shape(canvas, draws, places[index], pattern, style.contrast)
        regions &= ~covered
        regions[index] = covered
    grain = 0.03 * (draws.uniform(channels, size, size) - 0.5)
    return np.rint(np.clip(canvas + grain, 0, 1) * 255).astype(np.uint8), regions


def _paint_background(draws: RandomStream, channels: int, size: int, strength: float) -> Field:
    """A large gradient between two muted colours under noise with the spectrum of photographs."""
    tones = 0.25 + 0.5 * draws.uniform(2, 1) + _MUTED * (draws.uniform(2, channels) - 0.5)
    x, y = draws.unit_vector()
    axis = np.arange(size) / size - 0.5
    ramp = np.clip(0.5 + x * axis + y * axis[:, None], 0, 1)
    light = draw_natural_noise(draws, 1, size, 2.0)
    hue = draw_natural_noise(draws, channels, size, 12.0)
    base = tones[0][:, None, None] * ramp + tones[1][:, None, None] * (1 - ramp)
    return base + strength * (light + _MUTED * hue)


def _choose_locations(
    draws: RandomStream, counts: tuple[int, int], size: int, style: SceneStyle
) -> list[ShapeLocation]:
    """Places for objects, then for distractors, that overlap as little as a few tries allow."""
    found: list[ShapeLocation] = []
    objects, distractors = counts
    for crowd in (objects,) * objects + (1,) * distractors:
        area = draws.uniform_between(style.smallest, style.largest) / max(1.0, crowd / 2)
        radius = size * math.sqrt(area / math.pi)
        margin = min(1.05 * radius, size / 2)
        spots = (margin + draws.uniform(_MAX_TRIES, 2) * (size - 2 * margin)).tolist()
        rooms = [min([_gap(x, y, p) - radius for p in found] + [0.0]) for x, y in spots]
        x, y = spots[rooms.index(max(rooms))]
        found.append(ShapeLocation(x, y, radius))
    return found


def _gap(x: float, y: float, place: ShapeLocation) -> float:
    across, down = x - place.x, y - place.y
    return math.sqrt(across * across + down * down) - place.radius


def _soften_pattern(pattern: Pattern, u: Field, v: Field, pixel: float) -> Field:
    """A class's pattern with edges one pixel soft."""
    return np.clip(pattern(u, v) / pixel + 0.5, 0, 1)


def _fill_distractor(
    kind: Distractor, draws: RandomStream, u: Field, v: Field, pixel: float
) -> Field:
    return kind(draws, u, v)


def _paint_shape(
    canvas: Field, draws: RandomStream, place: ShapeLocation, texture: Texture, contrast: float
) -> NDArray[np.bool_]:
    """Lays one textured shape on the canvas; tells which pixels it covers by half or more."""
    size = canvas.shape[1]
    window, u, v = _compute_coordinates(draws, place, size)
    pixel = 1 / place.radius
    rim = draw_outline(draws, u, v)
    alpha = np.clip(rim / pixel + 0.5, 0, 1)
    shade = 0.7 + 0.3 * np.clip(rim * 5, 0, 1) + 0.1 * v
    first, second = _choose_colours(draws, canvas.shape[0], contrast)
    share = texture(u, v, pixel)
    colour = (second[:, None, None] + (first - second)[:, None, None] * share) * shade
    part = canvas[:, window[0], window[1]]
    part += (colour - part) * alpha
    covered = np.zeros((size, size), dtype=bool)
    covered[window] = alpha >= 0.5
    return covered


def _compute_coordinates(
    draws: RandomStream, place: ShapeLocation, size: int
) -> tuple[tuple[slice, slice], Field, Field]:
    """The window around a place, and its pixels in the shape's own turned coordinates."""
    reach = REACH * place.radius + 1
    left, right = max(0, int(place.x - reach)), min(size, int(place.x + reach) + 1)
    top, bottom = max(0, int(place.y - reach)), min(size, int(place.y + reach) + 1)
    along, across = draws.unit_vector()
    x = (np.arange(left, right) + 0.5 - place.x) / place.radius
    y = ((np.arange(top, bottom) + 0.5 - place.y) / place.radius)[:, None]
    window = (slice(top, bottom), slice(left, right))
    return window, x * along + y * across, y * along - x * across


def _choose_colours(draws: RandomStream, channels: int, contrast: float) -> tuple[Field, Field]:
    """Two colours around a random middle, `contrast` to either side, either one the brighter."""
    middle = 0.3 + 0.4 * draws.uniform(channels)
    hue = 2 * draws.uniform(channels) - 1
    offset = contrast * (draws.random_sign() * _LUMA + (1 - _LUMA) * hue)
    return np.clip(middle + offset, 0, 1), np.clip(middle - offset, 0, 1)
