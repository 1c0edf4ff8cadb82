"""Limits of what compressed bytes may unpack to, in every format and container."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from io import BytesIO

from apercu.errors import ImageError

MAX_UNPACKED_BYTES = 1 << 30
"""Largest size of an unpacked file."""
ALWAYS_ALLOWED_BYTES, MAX_RATIO = 64 << 20, 100
"""Unpacked bytes may be so many, or so many times the packed bytes."""

_STEP = 1 << 20


def unpacked_limit(packed_bytes: int, most: int | None = None) -> int:
    """Return how many bytes packed bytes may become.

    Args:
        packed_bytes: Number of packed bytes.
        most: Largest number of unpacked bytes, whatever the packed bytes are; None for
            `MAX_UNPACKED_BYTES`.

    >>> unpacked_limit(1000) >> 20, unpacked_limit(2 << 20) >> 20, unpacked_limit(1 << 30) >> 20
    (64, 200, 1024)
    """
    most = MAX_UNPACKED_BYTES if most is None else most
    return min(most, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * packed_bytes))


def inflate(packed: bytes, name: str, wbits: int, limit: int | None = None) -> BytesIO:
    """Unpack a zlib, gzip or raw deflate stream, after its unpacked size is counted.

    Args:
        packed: The packed bytes.
        name: Name of the file, for error messages.
        wbits: The argument of `zlib.decompressobj`; −15 for raw deflate.
        limit: Largest number of unpacked bytes; None for `unpacked_limit`.

    Returns:
        The unpacked bytes.

    Raises:
        ImageError: the stream is damaged, cut short, or unpacks to more than the limit.
    """
    limit = unpacked_limit(len(packed)) if limit is None else limit
    count_inflated(packed, name, wbits, limit)
    unpacked = BytesIO()
    for step in _inflate_steps(packed, wbits):
        unpacked.write(step)
    unpacked.seek(0)
    return unpacked


def count_inflated(packed: bytes, name: str, wbits: int, limit: int) -> int:
    """Count the bytes of a packed stream without keeping them.

    Args:
        packed: The packed bytes.
        name: Name of the file, for error messages.
        wbits: The argument of `zlib.decompressobj`.
        limit: Largest number of unpacked bytes.

    Returns:
        The number of unpacked bytes.

    Raises:
        ImageError: the stream is damaged, cut short, or unpacks to more than the limit.
    """
    count = 0
    try:
        for step in _inflate_steps(packed, wbits):
            count += len(step)
            if count > limit:
                raise ImageError(
                    f"{name}: too large, expected at most {limit >> 20} MiB unpacked; "
                    "unpack it first"
                )
    except (EOFError, zlib.error) as error:
        raise ImageError(f"{name}: damaged or cut short (deflate)") from error
    return count


def _inflate_steps(packed: bytes, wbits: int) -> Iterator[bytes]:
    """Yield the unpacked bytes, a mebibyte at a time; raise EOFError if the end is missing."""
    decompressor, rest = zlib.decompressobj(wbits), packed
    while not decompressor.eof:
        step = decompressor.decompress(rest, _STEP)
        rest = decompressor.unconsumed_tail
        if not step and not rest and not decompressor.eof:
            raise EOFError("the end of the stream is missing")
        yield step
