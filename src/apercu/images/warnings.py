"""Silence for one library's warnings, in any number of threads at once."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast


@contextmanager
def silence_warnings(package: str) -> Iterator[None]:
    """Silences warnings that come from the modules of a package.

    `warnings.catch_warnings` puts a whole list back when it ends, which another thread may have
    changed meanwhile; this adds one entry and takes one entry away.
    """
    filters = cast("list[Any]", warnings.filters)
    entry = ("ignore", None, Warning, re.compile(rf"{re.escape(package)}\."), 0)
    filters.insert(0, entry)
    try:
        yield
    finally:
        with suppress(ValueError):
            cast("list[Any]", warnings.filters).remove(entry)
