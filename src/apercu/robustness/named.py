"""Attacks and filters by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from apercu.errors import ConfigError, nearest
from apercu.robustness.attacks import ATTACKS, Attack
from apercu.robustness.filters import FILTERS, Filter
from apercu.typed import listed, settings_of

NONE = "none"
"""Name of no filter, and of no attack."""

AIMS = {"map_": "map", "eot_": "expected"}
"""What stands before the name of an attack that climbs something else than the class."""

T = TypeVar("T")


def aim_of(text: str) -> str:
    """What an attack of that name climbs: `class`, `map`, or `expected` (the class, over noise)."""
    return next((aim for prefix, aim in AIMS.items() if text.startswith(prefix)), "class")


def attack_named(text: str, seed: int = 0) -> Attack:
    """Such as `pgd:steps=20`, or `map_pgd`; draws from `seed` unless it says its own.

    Raises:
        ConfigError: no such attack or setting.
    """
    bare = next((text.removeprefix(one) for one in AIMS if text.startswith(one)), text)
    kind, values = _read(bare, ATTACKS, "attacks", "")
    if bare != text and kind.needs != "gradients":
        raise ConfigError(f"attacks: {text} has no gradients to climb; expected such as map_pgd")
    if "seed" in kind.__dataclass_fields__:  # type: ignore[attr-defined]
        values.setdefault("seed", seed)
    return kind(**values)


def filter_named(text: str) -> Filter | None:
    """Such as `jpeg:quality=75`; None for `none`.

    Raises:
        ConfigError: no such filter or setting.
    """
    if text == NONE:
        return None
    kind, values = _read(text, FILTERS, "filters", "none, ")
    return kind(**values)


def _read(
    text: str, known: Mapping[str, type[T]], what: str, others: str
) -> tuple[type[T], dict[str, object]]:
    word, _, rest = text.partition(":")
    if word not in known:
        raise ConfigError(
            f"{what}: expected some of {others}{', '.join(known)}, got {word}{nearest(word, known)}"
        )
    return known[word], settings_of(known[word], word, listed(word, rest, what), what)
