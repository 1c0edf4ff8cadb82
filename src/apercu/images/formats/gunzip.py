"""Gzip'ed bytes -> bytes, so many and no more."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from io import BufferedReader, BytesIO

from apercu.errors import ImageError

GZIP_MAGIC = b"\x1f\x8b"
MAX_UNPACKED_BYTES = 1 << 30
"""What may come out. A few bytes of gzip may hold a thousand times as many."""
ALWAYS_ALLOWED_BYTES, MAX_RATIO = 64 << 20, 100
"""What may come out of any file; beyond it, how many times as many bytes as went in."""
_STEP = 1 << 20


def gunzip(stream: BytesIO | BufferedReader, name: str, check: Callable[[bytes], None]) -> BytesIO:
    """All that was packed; `check` sees the first mebibyte before the rest is unpacked.

    Raises:
        ImageError: damaged, cut short, or larger than memory should hold.
    """
    whole = BytesIO()
    largest = min(
        MAX_UNPACKED_BYTES, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * stream.seek(0, os.SEEK_END))
    )
    stream.seek(0)
    try:
        with gzip.GzipFile(fileobj=stream) as packed:
            while step := packed.read(_STEP):
                if not whole.tell():
                    check(step)
                whole.write(step)
                if whole.tell() > largest:
                    raise ImageError(
                        f"{name}: too large, expected at most {largest >> 20} MiB unpacked; "
                        "unpack it first"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{name}: damaged or cut short (gzip)") from error
    whole.seek(0)
    return whole
