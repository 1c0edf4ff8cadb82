"""Attacks and filters by the names that people type."""

from __future__ import annotations

from typing import Literal, TypeAlias

from apercu.errors import ConfigError
from apercu.option_strings import parse_named
from apercu.robustness.attacks import ATTACKS, Attack
from apercu.robustness.filters import FILTERS, Filter

NONE = "none"
"""Name of no filter, and of no attack."""

ObjectiveName: TypeAlias = Literal["class", "map", "expected", "margin"]

OBJECTIVE_PREFIXES: dict[str, ObjectiveName] = {
    "map_": "map",
    "eot_": "expected",
    "margin_": "margin",
}
"""What stands before the name of an attack that climbs something else than the class."""


def find_objective_name(text: str) -> ObjectiveName:
    """What an attack of that name climbs: `class`, `map`, `expected` (the class, over noise), or
    `margin` (the class, by the lead of another)."""
    return next(
        (aim for prefix, aim in OBJECTIVE_PREFIXES.items() if text.startswith(prefix)), "class"
    )


def parse_attack(text: str, seed: int = 0) -> Attack:
    """Such as `pgd:steps=20`, or `map_pgd`; draws from `seed` unless it says its own.

    Raises:
        ConfigError: no such attack or setting, or one that cannot climb what is asked.
    """
    prefix = next((one for one in OBJECTIVE_PREFIXES if text.startswith(one)), "")
    bare = text.removeprefix(prefix)
    if prefix and bare.startswith(tuple(OBJECTIVE_PREFIXES)):
        raise ConfigError(
            f"attacks: {text}: expected one of {', '.join(OBJECTIVE_PREFIXES)} before a name"
        )
    made = parse_named(bare, ATTACKS, "attacks", seed=seed)
    if prefix and made.needs != "gradients":
        raise ConfigError(
            f"attacks: {text} has no gradients to climb; expected such as {prefix}pgd"
        )
    if prefix and not made.any_objective:
        raise ConfigError(f"attacks: {text} has its own aim; expected such as {prefix}pgd")
    return made


def parse_filter(text: str) -> Filter | None:
    """Such as `jpeg:quality=75`; None for `none`.

    Raises:
        ConfigError: no such filter or setting.
    """
    if text == NONE:
        return None
    return parse_named(text, FILTERS, "filters", other_names=(NONE,))
