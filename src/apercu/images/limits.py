"""Limits of the size of a picture, checked before it is decoded, and the range of pixel values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from io import BytesIO

from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImageError
from apercu.types import Images

MIN_SIDE = 2
"""Smallest height and width in pixels; a map of one row or column explains nothing."""

MAX_PIXELS = 100_000_000
"""Largest height × width; a damaged header may claim more than fits in memory."""

DENSE_PIXELS, MAX_PIXELS_PER_BYTE = 16_000_000, 1000
"""A file of any length may hold so many pixels, a longer one so many for each of its bytes."""

_max_pixels = ContextVar("max_pixels", default=MAX_PIXELS)


@contextmanager
def limit_pixels(pixels: int) -> Iterator[None]:
    """Lower the largest height × width within a `with` block; it never exceeds `MAX_PIXELS`."""
    before = _max_pixels.set(min(pixels, MAX_PIXELS))
    try:
        yield
    finally:
        _max_pixels.reset(before)


def check_size(name: str, height: int, width: int, channels: int = 3) -> None:
    """Raise ImageError if a picture is too small or too large.

    Args:
        name: name of the file, for the error message.
        height: height in pixels.
        width: width in pixels.
        channels: channels of the picture; more than three count like more pixels.
    """
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{name}: too small to explain, expected at least {MIN_SIDE} × {MIN_SIDE} "
            f"pixels, got {width} × {height} (width × height)"
        )
    if height * width * max(3, channels) > 3 * (largest := _max_pixels.get()):
        of_channels = f" in {channels} channels" if channels > 3 else ""
        raise ImageError(
            f"{name}: too large, expected at most {largest / 1_000_000:g} megapixels, "
            f"got {width} × {height} (width × height){of_channels}; resize it first"
        )


def check_density(name: str, height: int, width: int, packed_bytes: int) -> None:
    """Raise ImageError if a few bytes claim to be a very large picture.

    Args:
        name: name of the file, for the error message.
        height: height in pixels.
        width: width in pixels.
        packed_bytes: number of bytes of the file.
    """
    allowed = max(DENSE_PIXELS, MAX_PIXELS_PER_BYTE * packed_bytes)
    if height * width > allowed:
        raise ImageError(
            f"{name}: too large, expected at most {allowed / 1_000_000:g} megapixels in "
            f"{packed_bytes} bytes, got {width} × {height} (width × height); resize it first"
        )


def value_range(
    images: Images,
) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
    """Return the lowest and highest value that each image may take.

    That is 0 and 1, or the image's own extremes where they lie outside (raw counts).

    Args:
        images: images, `batch × channels × height × width`.

    Returns:
        The lowest and the highest values, each `batch × 1 × 1 × 1`.

    >>> import torch
    >>> low, high = value_range(torch.tensor([0.2, 300.0]).view(1, 1, 1, 2))
    >>> low.item(), high.item()
    (0.0, 300.0)
    """
    lowest, highest = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return lowest.clamp(max=0), highest.clamp(min=1)


MAX_UNPACKED_BYTES = 1 << 30
"""Largest size of an unpacked file."""
ALWAYS_ALLOWED_BYTES, MAX_RATIO = 64 << 20, 100
"""Unpacked bytes may be so many, or so many times the packed bytes."""

_STEP = 1 << 20


def unpacked_limit(packed_bytes: int, most: int | None = None) -> int:
    """Return how many bytes packed bytes may become.

    Args:
        packed_bytes: number of packed bytes.
        most: largest number of unpacked bytes, whatever the packed bytes are; None for
            `MAX_UNPACKED_BYTES`.

    Returns:
        The number of bytes.

    >>> unpacked_limit(1000) >> 20, unpacked_limit(2 << 20) >> 20, unpacked_limit(1 << 30) >> 20
    (64, 200, 1024)
    """
    most = MAX_UNPACKED_BYTES if most is None else most
    return min(most, max(ALWAYS_ALLOWED_BYTES, MAX_RATIO * packed_bytes))


def inflate(packed: bytes, name: str, wbits: int, limit: int | None = None) -> BytesIO:
    """Unpack a zlib, gzip or raw deflate stream, after its unpacked size is counted.

    Args:
        packed: the packed bytes.
        name: name of the file, for error messages.
        wbits: the argument of `zlib.decompressobj`; −15 for raw deflate.
        limit: largest number of unpacked bytes; None for `unpacked_limit`.

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
        packed: the packed bytes.
        name: name of the file, for error messages.
        wbits: the argument of `zlib.decompressobj`.
        limit: largest number of unpacked bytes.

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
