"""Exceptions and warnings of decoders that read damaged bytes."""

from __future__ import annotations

import lzma
import re
import struct
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, cast

DECODER_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,  # RecursionError and NotImplementedError too
    SyntaxError,
    TypeError,
    ValueError,  # UnicodeError too
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Pillow, pydicom, astropy and the codecs below them raise while they read damaged bytes.

Everything that can be known from a header is checked before, with a message of its own; so these
mean that the bytes contradict each other.
"""


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
