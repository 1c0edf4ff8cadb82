"""What a compressed FITS image says of its compression, checked before C code believes it."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Mapping
from io import BufferedReader, BytesIO
from typing import Any

from apercu.errors import ImageError
from apercu.images.limits import MAX_PIXELS

SAFE_COMPRESSIONS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
"""Hostile bytes make the decoders of the others write where they must not."""

_ALLOWED = {"BLOCKSIZE": (16, 32), "BYTEPIX": (1, 2, 4, 8)}


def check_compression(header: Mapping[str, Any], name: str) -> None:
    """Raises ImageError for a compression that cannot be opened safely.

    Args:
        header: of the table that holds the compressed image.
        name: of the file.
    """
    kind = str(header["ZCMPTYPE"]).strip()
    if kind not in SAFE_COMPRESSIONS:
        raise ImageError(
            f"{name}: compressed as {kind}, expected {', '.join(SAFE_COMPRESSIONS)}; unpack it first (funpack)"
        )
    for number in range(1, len(header)):
        if f"ZNAME{number}" not in header:
            break
        word, value = str(header[f"ZNAME{number}"]).strip(), header.get(f"ZVAL{number}")
        if word in _ALLOWED and not (type(value) is int and value in _ALLOWED[word]):
            raise ImageError(f"{name}: damaged, {word} of its compression is {value}")
    axes = range(1, int(header["ZNAXIS"]) + 1)
    rows = {1: header["ZNAXIS1"]}
    tile = [int(header.get(f"ZTILE{axis}", rows.get(axis, 1))) for axis in axes]
    if min(tile) < 1 or math.prod(tile) > MAX_PIXELS:
        raise ImageError(f"{name}: damaged, compressed in tiles of an impossible size")


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
