"""Silence the warnings of one library, safely in several threads."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast


@contextmanager
def silence_warnings(package: str) -> Iterator[None]:
    """Silence the warnings that come from the modules of a package, within a `with` block.

    `warnings.catch_warnings` restores the whole list of filters when it ends, although another
    thread may have changed it; this adds one filter and removes the same one.
    """
    filters = cast("list[Any]", warnings.filters)
    entry = ("ignore", None, Warning, re.compile(rf"{re.escape(package)}\."), 0)
    filters.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):
            cast("list[Any]", warnings.filters).remove(entry)
