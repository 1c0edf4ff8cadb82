"""Decode the pages of TIFF files that Pillow cannot read, or of which it reads other values."""

from __future__ import annotations

from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.formats.tiff import (
    COMPRESSION,
    DEFLATES,
    NOT_COMPRESSED,
    PLANAR,
    PREDICTOR,
    UNASSOCIATED,
    TiffPage,
    find_segments,
)
from apercu.images.limits import inflate


def decode_page(
    page: TiffPage, stream: BytesIO | BufferedReader, name: str, channels: int | None
) -> NDArray[np.float32]:
    """Decode a page that Pillow cannot read: uncompressed or deflated, in strips or tiles.

    Args:
        page: the page, after `check_page`.
        stream: the bytes of the file.
        name: name of the file, for error messages.
        channels: the number of channels that is wanted; None for all of the file.

    Returns:
        Pixels, `channels × height × width`; whole numbers are scaled to [0, 1].

    Raises:
        ImageError: the page is damaged, or compressed in another way.
    """
    compression, predictor = page.first(COMPRESSION, NOT_COMPRESSED), page.first(PREDICTOR, 1)
    kind = "f" if page.is_float else "u"
    if compression not in (NOT_COMPRESSED, *DEFLATES) or predictor not in (1, 2, 3):
        raise ImageError(
            f"{name}: a TIFF of {page.samples} × {page.bits} bits in compression {compression}, "
            "expected none or deflate; convert it"
        )
    if (kind, page.bits) not in (("f", 16), ("f", 32), ("f", 64), ("u", 8), ("u", 16)):
        raise ImageError(f"{name}: a TIFF of {page.bits} bits per value, expected 8, 16, 32 or 64")
    segments = find_segments(page, name)
    is_planar = page.first(PLANAR, 1) == 2
    planes, depth = (page.samples, 1) if is_planar else (1, page.samples)
    dtype = np.dtype(f"{page.order}{kind}{page.bits // 8}")
    rows, columns = -(-page.height // segments.height), -(-page.width // segments.width)
    canvas = np.empty((planes, page.height, page.width, depth), np.float32)
    for number, (offset, count) in enumerate(zip(segments.offsets, segments.counts, strict=True)):
        plane, index = divmod(number, rows * columns)
        top, left = (index // columns) * segments.height, (index % columns) * segments.width
        bottom = min(page.height, top + segments.height)
        high = segments.height if segments.is_tiled else bottom - top
        stream.seek(offset)
        content = stream.read(count)
        expected = high * segments.width * depth * dtype.itemsize
        if compression in DEFLATES:
            content = inflate(content, name, 15, expected + 1024).getvalue()
        if len(content) < expected:
            raise ImageError(f"{name}: cut short, expected {expected} bytes in a strip of pixels")
        block = _undo_predictor(content[:expected], dtype, (high, segments.width, depth), predictor)
        right = min(page.width, left + segments.width)
        canvas[plane, top:bottom, left:right] = block[: bottom - top, : right - left]
    pixels = canvas[..., 0] if is_planar else np.moveaxis(canvas[0], 2, 0)
    full_scale = 1.0 if page.is_float else float(2**page.bits - 1)
    pixels = pixels / np.float32(full_scale)
    if page.drops_last(channels):
        pixels = pixels[:-1]
    if page.alpha:
        return _show_over_white(pixels[:-1], pixels[-1:], page)
    return 1 - pixels if page.is_white_zero and len(pixels) == 1 else pixels


def _show_over_white(
    colours: NDArray[np.float32], alpha: NDArray[np.float32], page: TiffPage
) -> NDArray[np.float32]:
    """Return colours behind their transparency over white."""
    if page.alpha == UNASSOCIATED:
        colours = colours * alpha
    if page.is_white_zero:
        colours = alpha - colours
    return np.clip(colours + 1 - alpha, 0, 1)


def _undo_predictor(
    content: bytes, dtype: np.dtype[Any], shape: tuple[int, int, int], predictor: int
) -> NDArray[Any]:
    """Undo the differences between neighbours (2), or of the bytes of floats (3)."""
    high, width, depth = shape
    if predictor == 3:
        rows = np.frombuffer(content, np.uint8).reshape(high, -1)
        rows = np.cumsum(rows.reshape(high, -1, depth), axis=1, dtype=np.uint8).reshape(high, -1)
        by_byte = rows.reshape(high, dtype.itemsize, width * depth)
        ordered = np.ascontiguousarray(by_byte.transpose(0, 2, 1))
        return ordered.view(f">{dtype.kind}{dtype.itemsize}").reshape(shape)
    values = np.frombuffer(content, dtype).reshape(shape)
    if predictor == 2:
        unsigned = values.view(f"{dtype.str[0]}u{dtype.itemsize}")
        native = f"u{dtype.itemsize}"
        summed = np.cumsum(unsigned.astype(native), axis=1, dtype=native)
        return summed.view(f"{dtype.kind}{dtype.itemsize}")
    return values
