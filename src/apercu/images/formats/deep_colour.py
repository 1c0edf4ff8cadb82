"""Colours of 16 bits, of which Pillow keeps the upper byte; the lower one is read a second time."""

from __future__ import annotations

import sys
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_SWAPPED = {"B": "L", "L": "B", "N": "B" if sys.byteorder == "little" else "L"}
"""The order of the two bytes in which Pillow's upper byte is the lower one."""
_GREY_WITH_ALPHA = "LA;16B"
_FULL_SCALE = np.float32(65535)


def find_deep_mode(image: Any) -> str | None:
    """Return how an image that is not loaded stores colours of 16 bits, as Pillow names it.

    Returns:
        Such as `RGB;16B`; None for other images.
    """
    modes = {_read_raw_mode(tile.args) for tile in image.tile}
    mode = str(modes.pop()) if len(modes) == 1 else ""
    name, _, bits = mode.partition(";")
    is_deep = name in ("RGB", "RGBA") and bits in ("16B", "16L", "16N")
    return mode if is_deep or mode == _GREY_WITH_ALPHA else None


def decode_deep_colour(
    image: Image.Image, mode: str, stream: BytesIO | BufferedReader, page: int
) -> NDArray[np.float32]:
    """Return the pixels of a loaded image with all their bits; transparency is over white.

    Args:
        image: the image, whose pixels are the upper bytes.
        mode: how its colours are stored, from `find_deep_mode`.
        stream: the bytes of its file, which are decoded again.
        page: its number in a TIFF file.

    Returns:
        Pixels in [0, 1], `channels × height × width`; grey with transparency has one channel.
    """
    stream.seek(0)
    with Image.open(stream, formats=(image.format or "",)) as second:
        if page:
            second.seek(page)
        swapped = "RGBA" if mode == _GREY_WITH_ALPHA else mode[:-1] + _SWAPPED[mode[-1]]
        second.tile = [
            tile._replace(args=_set_raw_mode(tile.args, swapped)) for tile in second.tile
        ]
        second.load()
        bytes_ = np.asarray(second)
    if mode == _GREY_WITH_ALPHA:  # both bytes of both values are there
        values = bytes_[..., 0::2].astype(np.float32) * 256 + bytes_[..., 1::2]
    else:
        values = np.asarray(image).astype(np.float32) * 256 + bytes_
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        is_clear = (values == np.array(key, np.float32)).all(axis=2, keepdims=True)
        values = np.where(is_clear, _FULL_SCALE, values)
    values /= _FULL_SCALE
    if values.shape[2] in (2, 4):
        values = values[..., :-1] * values[..., -1:] + (1 - values[..., -1:])
    return np.ascontiguousarray(np.moveaxis(values, 2, 0))


def _read_raw_mode(args: Any) -> Any:
    """Return the mode in the arguments of a decoder, which is all of them or the first."""
    return args[0] if isinstance(args, tuple) and args else args


def _set_raw_mode(args: Any, mode: str) -> Any:
    return (mode, *args[1:]) if isinstance(args, tuple) else mode
