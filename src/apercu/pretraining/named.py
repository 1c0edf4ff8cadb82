"""Heads, shares and networks by the words that people type."""

from __future__ import annotations

from collections.abc import Sequence

from apercu.errors import ConfigError
from apercu.pretraining.heads import HEADS, Learner
from apercu.typed import named, read, split_names


def heads_named(text: str) -> dict[str, Learner]:
    """Heads by their names with settings; raises ConfigError."""
    return {name: named(name, HEADS, "heads") for name in split_names(text, "heads", HEADS)}


def fractions_of(text: str) -> tuple[float, ...]:
    """Shares such as `0.01,1/20`; raises ConfigError."""
    found = []
    for word in split_names(text, "fractions", ()):
        try:
            found.append(float(read(float, word)))  # type: ignore[arg-type]
        except ValueError:
            raise ConfigError(f"fractions: expected numbers such as 0.05, got {word!r}") from None
    return tuple(found)


def networks_named(texts: Sequence[str]) -> dict[str, str]:
    """SPECs by name, from `NAME=SPEC`; raises ConfigError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, spec = text.partition("=")
        if not (name and equals and spec):
            raise ConfigError(f"network: expected NAME=SPEC, got {text!r}")
        if name in found:
            raise ConfigError(f"network: expected each name once, got {name} twice")
        found[name] = spec
    return found
