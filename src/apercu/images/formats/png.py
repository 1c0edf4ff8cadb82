"""Count the rows of a PNG file, which decoders fill with black where they are missing."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
           (0, 1, 1, 2))  # fmt: skip
"""Column, row and their steps in each pass of an interlaced file."""
_STEP = 1 << 20


def has_all_rows(data: bytes) -> bool:
    """Return whether the pixels of a PNG file unpack to as many bytes as its header says.

    Args:
        data: the whole file, whose header is one that a decoder has accepted.

    Returns:
        True if no row is missing.
    """
    width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
    depth, colour, interlaced = data[24], data[25], data[28]
    bits = depth * _SAMPLES.get(colour, 1)
    passes = _PASSES if interlaced else ((0, 0, 1, 1),)
    expected = 0
    for column, row, across, down in passes:
        columns, rows = -(-(width - column) // across), -(-(height - row) // down)
        if columns > 0 and rows > 0:
            expected += rows * (1 + -(-columns * bits // 8))
    decompressor, count = zlib.decompressobj(), 0
    for chunk in _pixel_chunks(data):
        rest = chunk
        while count < expected and (rest or decompressor.unconsumed_tail):
            try:
                step = decompressor.decompress(rest, _STEP)
            except zlib.error:
                return False
            count, rest = count + len(step), decompressor.unconsumed_tail
            if decompressor.eof:
                return count >= expected
    return count >= expected


def _pixel_chunks(data: bytes) -> Iterator[bytes]:
    """Yield the content of each IDAT chunk."""
    position = len(PNG_MAGIC)
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"IDAT":
            yield data[position + 8 : position + 8 + length]
        position += 12 + length
