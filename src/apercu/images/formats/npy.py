"""`.npy` bytes -> array, for pictures with any number of channels.

The header is matched, not evaluated: an array of plain numbers needs no more.
"""

from __future__ import annotations

import math
import os
import re
from io import BufferedReader, BytesIO

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.limits import check_size

NPY_MAGIC = b"\x93NUMPY"

_HEADER = re.compile(
    r"\{\s*'descr':\s*'(?P<dtype>[<>|=]?[a-zA-Z]\d{1,2})',"
    r"\s*'fortran_order':\s*(?P<fortran>True|False),"
    r"\s*'shape':\s*\((?P<shape>[\d, ]{0,64})\),?\s*\}\s*"
)
FULL_SCALE = {"|u1": 255.0, "|b1": 1.0, "<u2": 65535.0, ">u2": 65535.0}
"""What integers are divided by, to lie in [0, 1]."""


def decode_npy(stream: BytesIO | BufferedReader, name: str) -> NDArray[np.float32]:
    """Reads height × width, channels × height × width or height × width × channels.

    Of three axes the shorter of the first and the last holds the channels; the first if they are
    equal. uint8, uint16 and bool are scaled to [0, 1]; floats are taken as they are. Raises
    ImageError for anything else.
    """
    dtype, fortran, shape = _read_header(stream, name)
    height, width = _find_height_width(shape, name)
    check_size(name, height, width)
    expected = math.prod(shape) * dtype.itemsize
    start = stream.tell()
    left = stream.seek(0, os.SEEK_END) - start
    if left < expected:
        raise ImageError(f"{name}: cut short, expected {expected} bytes of pixels, got {left}")
    stream.seek(start)
    array = np.frombuffer(stream.read(expected), dtype).reshape(
        shape, order="F" if fortran else "C"
    )
    with np.errstate(over="ignore", invalid="ignore"):
        pixels = array.astype(np.float32)
    pixels /= np.float32(FULL_SCALE.get(dtype.str, 1.0))
    if len(shape) == 2:
        return pixels[None]
    return pixels if shape[1:] == (height, width) else np.moveaxis(pixels, 2, 0)


def _read_header(
    stream: BytesIO | BufferedReader, name: str
) -> tuple[np.dtype[np.generic], bool, tuple[int, ...]]:
    """Number type, Fortran order and shape, as the header of a `.npy` file states them."""
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
    return np.dtype(code), match["fortran"] == "True", shape


def _find_height_width(shape: tuple[int, ...], name: str) -> tuple[int, int]:
    """Height and width of an array of two or three axes."""
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3 and min(shape) > 0:
        return shape[1:] if shape[0] <= shape[2] else shape[:2]
    raise ImageError(
        f"{name}: expected height × width, channels × height × width or "
        f"height × width × channels, got shape {shape}"
    )
