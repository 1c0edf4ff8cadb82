"""Warnings about what the library left out or assumed, while its work goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_log = logging.getLogger("apercu")
_listeners: list[Callable[[str], object]] = []


def warn(line: str) -> None:
    """Send a warning to the innermost `redirect_warnings`; without one it is logged.

    Args:
        line: what was left out or assumed, and of which file.
    """
    if _listeners:
        _listeners[-1](line)
    else:
        _log.warning("%s", line)


@contextmanager
def redirect_warnings(listener: Callable[[str], object]) -> Iterator[None]:
    """Send the warnings of a block to a function instead of the log.

    Args:
        listener: called with each line.
    """
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
