"""Checks of the settings of attacks, filters and detectors; each raises `ConfigError`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apercu.errors import ConfigError

WIDEST_WINDOW = 25
"""Largest width of a neighbourhood in pixels; a median holds the square of it for every pixel."""


def check_whole(name: str, low: int, high: int, **settings: int) -> None:
    """Raise ConfigError for a setting that is not a whole number from `low` to `high`."""
    for key, value in settings.items():
        if not (isinstance(value, int) and low <= value <= high):
            raise ConfigError(
                f"{name}: {key}: expected a whole number from {low:,} to {high:,}, got {value}"
            )


def check_width(name: str, **settings: int) -> None:
    """Raise ConfigError for the width of a neighbourhood that is even, too small or too large."""
    for key, value in settings.items():
        if not (isinstance(value, int) and 3 <= value <= WIDEST_WINDOW and value % 2):
            raise ConfigError(
                f"{name}: {key}: expected an odd number from 3 to {WIDEST_WINDOW}, got {value}"
            )


def check_positive(name: str, **settings: float) -> None:
    """Raise ConfigError for a setting that is not above 0."""
    for key, value in settings.items():
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: {key}: expected a number above 0, got {value:g}")


def check_between(name: str, low: float, high: float, **settings: float) -> None:
    """Raise ConfigError for a setting that is not between `low` and `high`."""
    for key, value in settings.items():
        if not low <= value <= high:
            raise ConfigError(
                f"{name}: {key}: expected a number from {low:g} to {high:g}, got {value:g}"
            )


def check_choice(name: str, key: str, value: str, choices: Sequence[str]) -> None:
    """Raise ConfigError for a word that is not one of the choices."""
    if value not in choices:
        raise ConfigError(f"{name}: {key}: expected {' or '.join(choices)}, got {value}")


def check_budget(epsilon: float, name: str) -> None:
    """Raise ConfigError for a budget of 0 or above 1, in units of the range of a pixel."""
    if not 0 < epsilon <= 1:
        raise ConfigError(
            f"{name}: epsilon: expected a number above 0 and up to 1 (8/255 is 0.0314), "
            f"got {epsilon:g}"
        )


def check_count(value: int, name: str) -> None:
    """Raise ConfigError for a count below 1."""
    if value < 1:
        raise ConfigError(f"{name}: expected a number of at least 1, got {value}")


def check_not_negative(value: float, name: str) -> None:
    """Raise ConfigError for a number below 0."""
    if not 0 <= value < math.inf:
        raise ConfigError(f"{name}: expected a number of at least 0, got {value:g}")


def check_fraction(value: float, name: str) -> None:
    """Raise ConfigError for a fraction outside [0, 1]."""
    if not 0 <= value <= 1:
        raise ConfigError(f"{name}: expected a fraction from 0 to 1, got {value:g}")
