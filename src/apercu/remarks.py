"""Lines about what the library left out or assumed, while its work goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable

_log = logging.getLogger("apercu")
_listeners: list[Callable[[str], object]] = []


def remark(line: str) -> None:
    """Tell a line to whoever listens; without a listener it is logged as a warning.

    Args:
        line: What was left out or assumed, and of which file.
    """
    for listener in _listeners:
        listener(line)
    if not _listeners:
        _log.warning("%s", line)


def listen(listener: Callable[[str], object]) -> None:
    """Send all further remarks to a function, once each.

    Args:
        listener: Called with each line.
    """
    if listener not in _listeners:
        _listeners.append(listener)
