"""What fills the shapes that mean nothing: textures which no class uses, in [0, 1]."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from apercu.images.planted.draws import RandomStream
from apercu.images.planted.noise import Field, interpolate_points
from apercu.images.planted.outlines import REACH

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
