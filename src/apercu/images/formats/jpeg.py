"""What a JPEG or JPEG 2000 codestream says of itself, read before it is decoded."""

from __future__ import annotations

import re
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from apercu.errors import ImageError

JPEG_MAGIC, JPEG2000_MAGIC = b"\xff\xd8\xff", b"\xff\x4f\xff\x51"
MIN_ALLOWED_SCANS, MAX_SCANS = 24, 100
"""A JPEG of any size may have so many scans, and none may have more; usual ones have 1 to 18."""
SCANNED_PIXELS = 400_000_000
"""Pixels × scans of a JPEG between these two; each scan goes over the whole picture once more."""

FRAME_MARKERS = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC} | {0xF7}
"""Start-of-frame markers, that of JPEG-LS too."""
START_OF_SCAN = 0xDA
_PROGRESSIVE, _END_OF_IMAGE = (0xC2, 0xC6, 0xCA, 0xCE), 0xD9
_WITHOUT_LENGTH = (0x01, 0xD8)
_UNSEEN = 99  # bits that a coefficient lacks before its first scan
_NEXT_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])", re.DOTALL)
_GREY = (127, 128)  # what a decoder shows where the data of a sequential JPEG ended too early
_FILLER = bytes(range(1, 251)) * 16


class Codestream(NamedTuple):
    """The header of a codestream.

    Attributes:
        height: height in pixels.
        width: width in pixels.
        components: number of colour components.
        bits: bits per sample.
        scans: number of scans; 1 for JPEG 2000.
        is_complete: whether the end is there, and a scan for every coefficient.
    """

    height: int
    width: int
    components: int
    bits: int
    scans: int = 1
    is_complete: bool = True


def read_codestream(data: bytes) -> Codestream | None:
    """Read the header of a JPEG, JPEG-LS or JPEG 2000 stream; None if it is none, or damaged."""
    if data.startswith(JPEG_MAGIC):
        return _read_jpeg(data)
    start = data.find(JPEG2000_MAGIC, 0, 1 << 16)  # the boxes of a .jp2 come before it
    return None if start < 0 else _read_jpeg2000(data[start:])


def check_scans(stream: Codestream, name: str) -> None:
    """Raise ImageError if a JPEG has so many scans that it takes far longer than its pixels."""
    pixels = max(1, stream.height * stream.width)
    allowed = min(MAX_SCANS, max(MIN_ALLOWED_SCANS, SCANNED_PIXELS // pixels))
    if stream.scans > allowed:
        raise ImageError(
            f"{name}: a JPEG of {stream.scans} scans, expected at most {allowed} at "
            f"{stream.width} × {stream.height} (width × height); save it again"
        )


def ends_in_grey(last_pixel: object) -> bool:
    """Return whether a pixel is the grey of missing data, in every channel of 8 bits."""
    return bool(np.isin(np.asarray(last_pixel), _GREY).all())


def is_cut_short(data: bytes) -> bool:
    """Return whether a sequential JPEG lacks data although it has an end marker.

    It is decoded a second time with other bytes before its end: they change nothing unless the
    decoder still waits for data there. So this is only worth it where `ends_in_grey`.

    Args:
        data: the whole stream.

    Returns:
        True if the pixels change with the bytes before the end, or if there is no end.
    """
    end = data.rfind(b"\xff\xd9")
    if end < 0:
        return True
    pictures: list[NDArray[Any]] = []
    for content in (data, data[:end] + _FILLER + data[end:]):
        with Image.open(BytesIO(content), formats=("JPEG",)) as image:
            pictures.append(np.asarray(image))
    return not np.array_equal(pictures[0], pictures[1])


def _read_jpeg(data: bytes) -> Codestream | None:
    """Walk the markers of a JPEG; entropy-coded data are searched for the next marker."""
    frame: tuple[int, int, int, int] | None = None
    scans, progressive, ended, position = 0, False, False, 2
    missing: dict[int, list[int]] = {}  # bits that each coefficient of a component still lacks
    while match := _NEXT_MARKER.search(data, position):
        marker, position = match[1][0], match.end()
        if marker == _END_OF_IMAGE:
            ended = True
            break
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(data[position : position + 2], "big")
        segment = data[position + 2 : position + length]
        position += max(2, length)
        if marker in FRAME_MARKERS and len(segment) >= 6 and frame is None:
            height, width = (int.from_bytes(segment[at : at + 2], "big") for at in (1, 3))
            frame = height, width, segment[5], segment[0]
            progressive = marker in _PROGRESSIVE
            missing = {identifier: [_UNSEEN] * 64 for identifier in segment[6::3]}
        elif marker == START_OF_SCAN:
            scans += 1
            _note_scan(segment, missing, progressive)
    if frame is None:
        return None
    return Codestream(*frame, scans, ended and all(map(_has_all, missing.values())))


def _note_scan(segment: bytes, missing: dict[int, list[int]], progressive: bool) -> None:
    """Note to which bit a scan brings the coefficients of its components."""
    count = segment[0] if segment else 0
    tail = segment[1 + 2 * count : 4 + 2 * count]
    if len(tail) < 3:
        return
    first, last, low_bit = (tail[0], min(tail[1], 63), tail[2] & 15) if progressive else (0, 63, 0)
    for identifier in segment[1 : 1 + 2 * count : 2]:
        if identifier in missing:
            missing[identifier][first : last + 1] = [low_bit] * (last + 1 - first)


def _has_all(lacks: list[int]) -> bool:
    """Return whether a component has its coefficients, or none but the mean of each block."""
    return not any(lacks) or (lacks[0] == 0 and set(lacks[1:]) == {_UNSEEN})


def _read_jpeg2000(data: bytes) -> Codestream | None:
    """Read the SIZ segment, and follow the tile parts to the end."""
    if len(data) < 45:
        return None
    x1, y1, x0, y0 = (int.from_bytes(data[at : at + 4], "big") for at in (8, 12, 16, 20))
    components = int.from_bytes(data[40:42], "big")
    bits = 1 + (data[42] & 0x7F)
    return Codestream(y1 - y0, x1 - x0, components, bits, 1, _has_all_tile_parts(data))


def _has_all_tile_parts(data: bytes) -> bool:
    """Return whether every tile part of a JPEG 2000 stream is as long as it says."""
    position = 2
    while data[position : position + 2] not in (b"\xff\x90", b""):  # the main header
        position += 2 + max(2, int.from_bytes(data[position + 2 : position + 4], "big"))
    while data[position : position + 2] == b"\xff\x90":
        length = int.from_bytes(data[position + 6 : position + 10], "big")
        if length == 0:  # the last tile part reaches to the end
            return data.rstrip(b"\0").endswith(b"\xff\xd9")
        if length < 14:
            return False
        position += length
    return position <= len(data) - 2 and data[position : position + 2] == b"\xff\xd9"
