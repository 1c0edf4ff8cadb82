"""Decode `.npy` arrays, for pictures with any number of channels.

The header is matched with a regular expression and never evaluated.
"""

from __future__ import annotations

import math
import os
import re
from io import BufferedReader, BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.limits import check_size

NPY_MAGIC = b"\x93NUMPY"
FULL_SCALE = {"|u1": 255.0, "|b1": 1.0, "<u2": 65535.0, ">u2": 65535.0}
"""Value of each integer type that becomes 1."""

_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<dtype>[<>|=]?[a-zA-Z]\d{1,2})',"
    r"\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]{0,64})\),?\s*\}\s*"
)


class _NpyHeader(NamedTuple):
    """The header of a `.npy` file."""

    dtype: np.dtype[np.generic]
    fortran_order: bool
    shape: tuple[int, ...]


def decode_npy(stream: BytesIO | BufferedReader, name: str) -> NDArray[np.float32]:
    """Decode `height × width`, `channels × height × width` or `height × width × channels`.

    Of three axes the shorter of the first and the last holds the channels; the first if they are
    equal. uint8, uint16 and bool are scaled to [0, 1]; floats are kept.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.

    Returns:
        The pixels, `channels × height × width`.

    Raises:
        ImageError: the file is damaged, cut short, too small or too large, or another array.
    """
    dtype, fortran_order, shape = _read_header(stream, name)
    height, width = _find_height_width(shape, name)
    check_size(name, height, width)
    expected = math.prod(shape) * dtype.itemsize
    start = stream.tell()
    remaining = stream.seek(0, os.SEEK_END) - start
    if remaining < expected:
        raise ImageError(f"{name}: cut short, expected {expected} bytes of pixels, got {remaining}")
    stream.seek(start)
    array = np.frombuffer(stream.read(expected), dtype).reshape(
        shape, order="F" if fortran_order else "C"
    )
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = array.astype(np.float32)
    pixels /= np.float32(FULL_SCALE.get(dtype.str, 1.0))
    if len(shape) == 2:
        return pixels[None]
    return pixels if shape[1:] == (height, width) else np.moveaxis(pixels, 2, 0)


def _read_header(stream: BytesIO | BufferedReader, name: str) -> _NpyHeader:
    """Read the header; raise ImageError if the array is not one of plain numbers."""
    version = stream.read(len(NPY_MAGIC) + 2)[len(NPY_MAGIC) :]
    width = 2 if version[:1] == b"\x01" else 4
    length = int.from_bytes(stream.read(width), "little")
    text = stream.read(min(length, 65536)).decode("latin-1")
    match = _HEADER.fullmatch(text)
    if match is None:
        raise ImageError(f"{name}: damaged, or not a .npy array of plain numbers")
    code = match["dtype"]
    if code.lstrip("<>=|") not in {"u1", "b1", "u2", "f2", "f4", "f8"}:
        raise ImageError(
            f"{name}: expected float pixels in [0, 1], uint8, uint16 or bool, got dtype {code}"
        )
    shape = tuple(int(number) for number in re.findall(r"\d+", match["shape"]))
    return _NpyHeader(np.dtype(code), match["fortran"] == "True", shape)


def _find_height_width(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Return height and width of an array; raise ImageError if it is not a picture."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and min(shape) > 0:
        return shape[1:] if shape[0] <= shape[2] else shape[:2]
    raise ImageError(
        f"{name}: expected height × width, channels × height × width or "
        f"height × width × channels, got shape {shape}"
    )
