"""Compressed FITS: gzip'ed files, and compressed images that are checked before they are read."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from collections.abc import Callable, Mapping
from io import BufferedReader, BytesIO
from typing import Any

import numpy as np

from apercu.errors import ImageError
from apercu.images.limits import MAX_PIXELS, count_inflated, unpacked_limit

SAFE_COMPRESSIONS = ("RICE_1", "RICE_ONE", "GZIP_1", "GZIP_2", "NOCOMPRESS")
"""Compressions of images that are read; hostile bytes make other decoders corrupt memory."""

GZIP_MAGIC = b"\x1f\x8b"

_STEP = 1 << 20
_LARGEST_PIXEL, _GZIP_RATIO, _GZIP_WBITS = 8, 1032, 31
_ALLOWED_PARAMETERS = {"BLOCKSIZE": (16, 32), "BYTEPIX": (1, 2, 4, 8)}


def check_compression(header: Mapping[str, Any], name: str) -> None:
    """Raise ImageError if a compressed image cannot be unpacked safely.

    Args:
        header: header of the table that holds the compressed image.
        name: name of the file, for error messages.
    """
    kind = str(header["ZCMPTYPE"]).strip()
    if kind not in SAFE_COMPRESSIONS:
        raise ImageError(
            f"{name}: compressed as {kind}, expected {', '.join(SAFE_COMPRESSIONS)}; "
            "unpack it first (funpack)"
        )
    for number in range(1, len(header)):
        if f"ZNAME{number}" not in header:
            break
        parameter, value = str(header[f"ZNAME{number}"]).strip(), header.get(f"ZVAL{number}")
        allowed = _ALLOWED_PARAMETERS.get(parameter)
        if allowed is not None and not (type(value) is int and value in allowed):
            raise ImageError(f"{name}: damaged, {parameter} of its compression is {value}")
    axes = range(1, int(header["ZNAXIS"]) + 1)
    rows = {1: header["ZNAXIS1"]}
    tile = [int(header.get(f"ZTILE{axis}", rows.get(axis, 1))) for axis in axes]
    if min(tile) < 1 or math.prod(tile) > MAX_PIXELS:
        raise ImageError(f"{name}: damaged, compressed in tiles of an impossible size")


def check_tiles(stream: BytesIO | BufferedReader, hdu: Any, name: str) -> None:
    """Raise ImageError if a gzip'ed tile of a compressed image unpacks to more than its pixels.

    Args:
        stream: the bytes of the file, not gzip'ed.
        hdu: the compressed image.
        name: name of the file, for error messages.
    """
    from astropy.io import fits

    at = hdu.fileinfo()
    stream.seek(at["hdrLoc"])
    content = stream.read(at["datLoc"] + at["datSpan"] - at["hdrLoc"])
    table = fits.BinTableHDU.readfrom(BytesIO(content))  # of a file on disk it reads the start
    header = table.header
    axes = range(1, int(header["ZNAXIS"]) + 1)
    default = {1: int(header["ZNAXIS1"])}
    tile = math.prod(int(header.get(f"ZTILE{axis}", default.get(axis, 1))) for axis in axes)
    limit = tile * _LARGEST_PIXEL + _STEP
    for column in ("COMPRESSED_DATA", "GZIP_COMPRESSED_DATA"):
        for packed in table.data[column] if column in table.columns.names else ():
            tile_bytes = np.asarray(packed).tobytes()
            if tile_bytes[:2] == GZIP_MAGIC and len(tile_bytes) * _GZIP_RATIO > limit:
                count_inflated(tile_bytes, name, _GZIP_WBITS, limit)
    stream.seek(0)


def gunzip(stream: BytesIO | BufferedReader, name: str, check: Callable[[bytes], None]) -> BytesIO:
    """Unpack a gzip'ed file into memory.

    Args:
        stream: the gzip'ed bytes.
        name: name of the file, for error messages.
        check: called with the first mebibyte before the rest is unpacked; it may raise.

    Returns:
        The unpacked bytes.

    Raises:
        ImageError: the file is damaged, cut short, or too large.
    """
    unpacked = BytesIO()
    packed_bytes = stream.seek(0, os.SEEK_END)
    limit = unpacked_limit(packed_bytes)
    stream.seek(0)
    try:
        with gzip.GzipFile(fileobj=stream) as packed:
            while step := packed.read(_STEP):
                if not unpacked.tell():
                    check(step)
                unpacked.write(step)
                if unpacked.tell() > limit:
                    raise ImageError(
                        f"{name}: too large, expected at most {limit >> 20} MiB unpacked; "
                        "unpack it first"
                    )
    except (OSError, EOFError, zlib.error) as error:
        raise ImageError(f"{name}: damaged or cut short (gzip)") from error
    unpacked.seek(0)
    return unpacked
