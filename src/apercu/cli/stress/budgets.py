"""Budgets as they are typed: `2/255,4/255`."""

from __future__ import annotations

from typing import Any


def parse_epsilons(text: str) -> list[float]:
    """Budgets in units of the range of a pixel.

    Raises:
        ConfigError: no number, or none that is above 0 and up to 1.
    """
    from apercu.option_strings import parse_value, split_names

    return [_parse_epsilon(parse_value, word) for word in split_names(text, "epsilons", ())]


def _parse_epsilon(read: Any, word: str) -> float:
    from apercu.errors import ConfigError

    try:
        found = float(read(float, word))
    except ValueError:
        raise ConfigError(f"epsilons: expected a number such as 8/255, got {word!r}") from None
    if not 0 < found <= 1:
        raise ConfigError(
            f"epsilons: expected numbers above 0 and up to 1 (8/255 is 0.0314), got {word}"
        )
    return found
