"""The pages of a TIFF file, checked before a decoder reads them."""

from __future__ import annotations

import os
import struct
from collections.abc import Mapping
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

from apercu.errors import ImageError
from apercu.images.formats.jpeg import check_scans, read_codestream
from apercu.images.limits import check_density, check_size

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MAX_PAGES = 1000
"""Largest number of pages in one file."""

_TYPES = {1: "B", 2: "B", 3: "H", 4: "I", 5: "II", 6: "b", 8: "h", 9: "i", 10: "ii", 11: "f",
          12: "d", 13: "I", 16: "Q", 17: "q", 18: "Q"}  # fmt: skip
_MAX_TAGS, _SIGNED = 4096, 2
UNSIGNED = 1
"""Value of SampleFormat."""
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
ASSOCIATED, UNASSOCIATED = 1, 2  # values of ExtraSamples
NOT_COMPRESSED, DEFLATES, _JPEGS = 1, (8, 32946), (6, 7)  # values of Compression
_TILE_PIXELS = 16_000_000  # a tile may have so many pixels, or as many as the picture

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES = 273, 274, 277, 278, 279
X_RESOLUTION, Y_RESOLUTION, PLANAR, PREDICTOR = 282, 283, 284, 317
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT = 322, 323, 324, 325, 339
SUBFILE_TYPE, EXTRA_SAMPLES = 254, 338


_WANTED = frozenset(
    (SUBFILE_TYPE, WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC, STRIP_OFFSETS, ORIENTATION,
     SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, X_RESOLUTION, Y_RESOLUTION, PLANAR, PREDICTOR,
     TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES, SAMPLE_FORMAT, EXTRA_SAMPLES)
)  # fmt: skip


class TiffPage(NamedTuple):
    """One directory of a TIFF file.

    Attributes:
        number: number of the directory, as Pillow counts them.
        order: byte order, `<` or `>`.
        tags: numbers of each tag.
    """

    number: int
    order: str
    tags: Mapping[int, tuple[Any, ...]]

    def first(self, tag: int, default: int) -> int:
        """Return the first number of a tag."""
        values = self.tags.get(tag) or (default,)
        return int(values[0])

    @property
    def height(self) -> int:
        """The height in pixels."""
        return self.first(HEIGHT, 0)

    @property
    def width(self) -> int:
        """The width in pixels."""
        return self.first(WIDTH, 0)

    @property
    def samples(self) -> int:
        """The values of a pixel."""
        return self.first(SAMPLES, 1)

    @property
    def bits(self) -> int:
        """The bits of a value."""
        return self.first(BITS, 1)

    @property
    def is_white_zero(self) -> bool:
        """Whether 0 is white."""
        return self.first(PHOTOMETRIC, 1) == 0

    @property
    def is_float(self) -> bool:
        """Whether values are floats."""
        return self.first(SAMPLE_FORMAT, 1) == 3

    @property
    def aspect(self) -> float:
        """Height of a pixel divided by its width; 1 where the file does not tell."""
        x, y = (self.tags.get(tag, (0, 0)) for tag in (X_RESOLUTION, Y_RESOLUTION))
        if len(x) < 2 or len(y) < 2 or not (x[0] and x[1] and y[0] and y[1]):
            return 1.0
        return float((x[0] / x[1]) / (y[0] / y[1]))

    @property
    def colours(self) -> int:
        """The values of a pixel that are its grey or colours; 0 of palettes and other spaces."""
        return {0: 1, 1: 1, 2: 3}.get(self.first(PHOTOMETRIC, 1), 0)

    @property
    def alpha(self) -> int:
        """The kind of transparency: 0 for none, 1 where colours are multiplied by it already."""
        kind = self.first(EXTRA_SAMPLES, 0)
        is_last = self.colours and self.samples == self.colours + 1
        return kind if is_last and kind in (ASSOCIATED, UNASSOCIATED) else 0

    def drops_last(self, channels: int | None) -> bool:
        """Whether a last band without a meaning is not wanted: where grey or colours are."""
        has_one_more = bool(self.colours) and self.samples == self.colours + 1 and not self.alpha
        return has_one_more and channels in (1, 3)

    def needs_own_decoder(self, channels: int | None) -> bool:
        """Return whether Pillow cannot read the values, or reads others.

        It reads floats only as one of 32 bits, takes words in separate planes for bytes, and drops
        a band after the colours.

        Args:
            channels: the number of channels that is wanted; None for all of the file.

        Returns:
            True for pages that this package decodes itself.
        """
        if self.is_float:
            return (self.bits, self.samples) != (32, 1)
        if self.bits not in (8, 16):
            return False
        is_planar, is_word = self.first(PLANAR, 1) == 2, self.bits == 16
        if self.samples == 1:
            return is_word and self.is_white_zero and self.order == ">"
        if not self.colours:
            return self.samples > 4 or (is_word and is_planar)
        if is_planar and (is_word or self.samples != 3):
            return True
        if self.alpha:
            is_multiplied = self.alpha == ASSOCIATED and self._is_simple
            return (is_word and (self.colours == 1 or is_multiplied)) or self.is_white_zero
        if self.drops_last(channels):
            return is_word and (self.colours == 1 or self._is_simple)
        return self.samples != 3 or self.colours == 1

    @property
    def _is_simple(self) -> bool:
        """Whether the page is compressed in no way, or in one that is read without Pillow."""
        return self.first(COMPRESSION, NOT_COMPRESSED) in (NOT_COMPRESSED, *DEFLATES)


def is_tiff(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a TIFF file."""
    return start[:4] in TIFF_MAGICS


def read_pages(stream: BytesIO | BufferedReader, name: str) -> list[TiffPage]:
    """Read the directories of the pages; previews and masks of a page are left out.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.

    Returns:
        The pages, at least one.

    Raises:
        ImageError: a directory is damaged, or beyond the end of the file, or there are too many.
    """
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    start = stream.read(16)
    order = "<" if start[:2] == b"II" else ">"
    is_big = 43 in (start[2], start[3])
    pages: list[TiffPage] = []
    offsets: set[int] = set()
    try:
        (offset,) = (
            struct.unpack_from(f"{order}Q", start, 8)
            if is_big
            else struct.unpack_from(f"{order}I", start, 4)
        )
        while offset:
            if offset in offsets or len(offsets) >= MAX_PAGES:
                raise ImageError(
                    f"{name}: damaged, its pages form a circle, or more than {MAX_PAGES}"
                )
            offsets.add(offset)
            tags, offset = _read_directory(stream, order, offset, length, is_big)
            pages.append(TiffPage(len(pages), order, tags))
    except (struct.error, EOFError) as error:
        if not pages:
            raise ImageError(f"{name}: damaged or cut short, a page is beyond its end") from error
    whole = [page for page in pages if not page.first(SUBFILE_TYPE, 0) & (_REDUCED | _MASK)]
    stream.seek(0)
    if not pages:
        raise ImageError(f"{name}: damaged or cut short, a TIFF file without pages")
    return whole or pages[:1]


def _read_directory(
    stream: BytesIO | BufferedReader, order: str, offset: int, length: int, is_big: bool
) -> tuple[dict[int, tuple[Any, ...]], int]:
    """Read the numbers of a directory, and the offset of the next one; EOFError beyond the end."""
    counter, entry, pointer = ("Q", "HHQ", "Q") if is_big else ("H", "HHI", "I")
    inline = 8 if is_big else 4
    stream.seek(offset)
    (count,) = _unpack(stream, f"{order}{counter}")
    if count > _MAX_TAGS:
        raise EOFError
    tags: dict[int, tuple[Any, ...]] = {}
    content = stream.read(count * (struct.calcsize(f"{order}{entry}") + inline))
    (following,) = _unpack(stream, f"{order}{pointer}")
    step = struct.calcsize(f"{order}{entry}") + inline
    for start in range(0, len(content) - step + 1, step):
        tag, kind, number = struct.unpack_from(f"{order}{entry}", content, start)
        form = _TYPES.get(kind)
        if form is None or tag not in _WANTED:
            continue
        size = number * struct.calcsize(f"{order}{form}")
        value = content[start + step - inline : start + step][:size]
        if size > inline:
            (at,) = struct.unpack_from(f"{order}{pointer}", content, start + step - inline)
            if at + size > length:
                continue
            stream.seek(at)
            value = stream.read(size)
        tags[tag] = struct.unpack(f"{order}{number * len(form)}{form[0]}", value)
    return tags, following


def _unpack(stream: BytesIO | BufferedReader, form: str) -> tuple[Any, ...]:
    """Read and unpack numbers; raise EOFError beyond the end."""
    size = struct.calcsize(form)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return struct.unpack(form, content)


class Segments(NamedTuple):
    """The strips or tiles of a page: where they are, and the size of each but the last ones."""

    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    height: int
    width: int
    is_tiled: bool


def check_page(page: TiffPage, stream: BytesIO | BufferedReader, name: str) -> None:
    """Refuse a page that is too large, or lacks a part of its pixels.

    Args:
        page: the page.
        stream: the bytes of the file.
        name: name of the file, for error messages.

    Raises:
        ImageError: the page is too small or too large, a strip or tile is missing or cut short,
            or a JPEG in it has too many scans.
    """
    length = stream.seek(0, os.SEEK_END)
    check_size(name, page.height, page.width)
    check_density(name, page.height, page.width, length)
    if not 1 <= page.samples <= 512 or not 1 <= page.bits <= 64:
        raise ImageError(
            f"{name}: damaged, {page.samples} values of {page.bits} bits per pixel; expected 1 "
            "to 512 of 1 to 64"
        )
    if page.first(SAMPLE_FORMAT, 1) == _SIGNED and page.bits == 8:
        raise ImageError(f"{name}: a TIFF of signed bytes, expected unsigned; convert it")
    channels = -(-page.samples * page.bits // 32)
    check_size(name, page.height, page.width, channels)
    segments = find_segments(page, name)
    compression = page.first(COMPRESSION, NOT_COMPRESSED)
    rows = -(-page.height // segments.height)
    for number, (offset, count) in enumerate(zip(segments.offsets, segments.counts, strict=True)):
        if not count or not offset or offset + count > length:
            kind = "tile" if segments.is_tiled else "strip"
            raise ImageError(
                f"{name}: damaged or cut short, {kind} {number + 1} of {len(segments.offsets)} "
                "is missing"
            )
        if compression in _JPEGS:
            stream.seek(offset)
            header = read_codestream(stream.read(count))
            if header is not None:
                check_scans(header, name)
                needed = min(segments.height, page.height - number % rows * segments.height)
                high = segments.height if segments.is_tiled else needed
                if header.height < high or header.width < segments.width:
                    raise ImageError(
                        f"{name}: damaged or cut short, a strip of {segments.width} × {high} "
                        f"pixels holds a JPEG of {header.width} × {header.height}"
                    )
    stream.seek(0)


def find_segments(page: TiffPage, name: str) -> Segments:
    """Return the strips or tiles that a page needs; raise ImageError if some are not listed."""
    planes = page.samples if page.first(PLANAR, 1) == 2 else 1
    per_pixel = page.samples // planes * page.bits
    is_tiled = TILE_OFFSETS in page.tags or TILE_WIDTH in page.tags
    if is_tiled:
        height, width = page.first(TILE_HEIGHT, 0), page.first(TILE_WIDTH, 0)
        if not 0 < height * width <= max(_TILE_PIXELS, page.height * page.width):
            raise ImageError(
                f"{name}: damaged, its tiles are {width} × {height} (width × height) pixels"
            )
        offsets, counts = page.tags.get(TILE_OFFSETS, ()), page.tags.get(TILE_BYTES, ())
    else:
        height = min(page.height, page.first(ROWS_PER_STRIP, page.height) or page.height)
        width = page.width
        offsets, counts = page.tags.get(STRIP_OFFSETS, ()), page.tags.get(STRIP_BYTES, ())
    rows, columns = -(-page.height // height), -(-page.width // width)
    needed = rows * columns * planes
    if len(offsets) < needed:
        kind = "tiles" if is_tiled else "strips"
        raise ImageError(
            f"{name}: damaged or cut short, expected {needed} {kind} of pixels, got {len(offsets)}"
        )
    if (
        page.first(COMPRESSION, NOT_COMPRESSED) == NOT_COMPRESSED
    ):  # the counts of some writers are wrong
        sizes = []
        for number in range(needed):
            last = not is_tiled and number % rows == rows - 1
            high = page.height - height * (rows - 1) if last else height
            sizes.append(high * -(-width * per_pixel // 8))
        counts = tuple(sizes)
    elif len(counts) < needed:
        raise ImageError(f"{name}: damaged, the sizes of its strips are missing")
    numbers = [tuple(int(each) for each in values[:needed]) for values in (offsets, counts)]
    return Segments(numbers[0], numbers[1], height, width, is_tiled)
