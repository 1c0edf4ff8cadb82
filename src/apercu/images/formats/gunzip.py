"""Gzip'ed bytes -> bytes, so many and no more."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable
from io import BufferedReader, BytesIO

from apercu.errors import ImageError

MAGIC = b"\x1f\x8b"
LARGEST_BYTES = 1 << 30
"""What may come out. A few bytes of gzip may hold a thousand times as many."""
FREE_BYTES, RATIO = 64 << 20, 100
"""What may come out of any file; beyond it, how many times as many bytes as went in."""
_STEP = 1 << 20


def unpacked(
    stream: BytesIO | BufferedReader, name: str, check: Callable[[bytes], None]
) -> BytesIO:
    """All that was packed; `check` sees the first mebibyte before the rest is unpacked.

    Raises:
        ImageError: damaged, cut short, or larger than memory should hold.
    """
    whole = BytesIO()
    largest = min(LARGEST_BYTES, max(FREE_BYTES, RATIO * stream.seek(0, os.SEEK_END)))
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
