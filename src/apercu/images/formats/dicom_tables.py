"""Lookup tables of DICOM files: of grey values, and palettes, in every way they are written."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.formats.dicom_header import read_numbers, read_value

if TYPE_CHECKING:
    from pydicom import Dataset

MAX_ENTRIES = 1 << 16
"""Largest number of entries of a table."""

_COLOURS = ("Red", "Green", "Blue")


class LookupTable(NamedTuple):
    """A table from stored values to values.

    Attributes:
        first: stored value of the first entry; smaller ones take the first entry, too.
        bits: bits per entry, as the header says.
        entries: the entries, whole numbers from 0.
    """

    first: int
    bits: int
    entries: NDArray[np.int64]

    def look_up(self, values: NDArray[np.generic]) -> NDArray[np.float64]:
        """Return the entry of each value; values outside take the nearest entry."""
        indices = np.rint(values.astype(np.float64)) - self.first
        return self.entries[np.clip(indices, 0, len(self.entries) - 1).astype(np.intp)].astype(
            np.float64
        )

    @property
    def full_scale(self) -> float:
        """The entry that is white: of the bits that the header says, or fewer if it uses fewer."""
        largest = int(self.entries.max())
        return float(2 ** min(self.bits, max(1, largest.bit_length())) - 1)


def read_table(
    item: Dataset,
    name: str,
    *,
    signed: bool,
    descriptor: str = "LUTDescriptor",
    data: str = "LUTData",
) -> LookupTable:
    """Read a table of an item.

    Args:
        item: the item of a sequence, or the dataset.
        name: name of the file, for error messages.
        signed: whether the stored values are signed.
        descriptor: keyword of the descriptor.
        data: keyword of the entries.

    Returns:
        The table.

    Raises:
        ImageError: the table is damaged, or shorter than its descriptor says.
    """
    numbers = read_numbers(item, descriptor, name)
    if len(numbers) != 3:
        raise ImageError(f"{name}: damaged, {descriptor} has {len(numbers)} numbers, expected 3")
    count, first, bits = (int(number) for number in numbers)
    count = count % MAX_ENTRIES or MAX_ENTRIES  # 0 says 65536, and some write it as signed
    first = (first + 2**15) % 2**16 - 2**15 if signed else first % 2**16
    if not 1 <= bits <= 16:
        raise ImageError(f"{name}: damaged, {descriptor} says {bits} bits, expected 8 to 16")
    return LookupTable(first, bits, _read_entries(item, data, count, bits, name))


def _read_entries(
    item: Dataset, keyword: str, count: int, bits: int, name: str
) -> NDArray[np.int64]:
    """Read entries that are numbers, bytes in words, or bytes; the lengths tell which."""
    value = read_value(item, keyword, name)
    if isinstance(value, bytes | bytearray):
        if len(value) >= 2 * count:
            entries = _read_words(item, bytes(value))[:count]
            if bits > 8 or entries.max() <= 0xFF:
                return entries
            low = entries & 0xFF
            return low if low.any() else entries >> 8
        entries = np.frombuffer(value, np.uint8).astype(np.int64)
    else:
        entries = np.array(read_numbers(item, keyword, name)).astype(np.int64)
        if len(entries) < count <= 2 * len(entries) and bits <= 8:  # two entries per word
            entries = np.stack([entries & 0xFF, entries >> 8 & 0xFF], axis=1).ravel()
    if len(entries) < count:
        raise ImageError(
            f"{name}: damaged, {keyword} has {len(entries)} entries, its descriptor says {count}"
        )
    return entries[:count]


def _read_words(item: Dataset, content: bytes) -> NDArray[np.int64]:
    """Read unsigned words in the byte order of the file."""
    order = "<" if item.original_encoding[1] is not False else ">"
    return np.frombuffer(content[: len(content) // 2 * 2], f"{order}u2").astype(np.int64)


def apply_palette(
    values: NDArray[np.generic], dataset: Dataset, name: str, *, signed: bool
) -> NDArray[np.float64]:
    """Return the colours of stored values, from 0 to 1.

    Args:
        values: stored values, `height × width`.
        dataset: the elements of the file.
        name: name of the file, for error messages.
        signed: whether the stored values are signed.

    Returns:
        Red, green and blue, `height × width × 3`.

    Raises:
        ImageError: a table is missing or damaged.
    """
    tables = [_read_palette(dataset, colour, name, signed=signed) for colour in _COLOURS]
    largest = max(int(table.entries.max()) for table in tables)
    bits = 8 if largest <= 0xFF else max(table.bits for table in tables)  # 8 bits in words
    colours = np.stack([table.look_up(values) for table in tables], axis=-1)
    return np.clip(colours / (2.0**bits - 1), 0, 1)


def _read_palette(dataset: Dataset, colour: str, name: str, *, signed: bool) -> LookupTable:
    """Read the table of one colour, which may be stored in segments."""
    descriptor = f"{colour}PaletteColorLookupTableDescriptor"
    data = f"{colour}PaletteColorLookupTableData"
    if read_value(dataset, descriptor, name) is None:
        raise ImageError(f"{name}: lacks {descriptor}")
    if read_value(dataset, data, name) is not None:
        return read_table(dataset, name, signed=signed, descriptor=descriptor, data=data)
    data = f"Segmented{data}"
    content = read_value(dataset, data, name)
    if not isinstance(content, bytes):
        raise ImageError(f"{name}: lacks {colour}PaletteColorLookupTableData")
    count, first, bits = (int(number) for number in read_numbers(dataset, descriptor, name))
    words = (
        np.frombuffer(content, np.uint8).astype(np.int64)
        if bits == 8
        else _read_words(dataset, content)
    )
    entries = _expand_segments(words, bits, count % MAX_ENTRIES or MAX_ENTRIES, name)
    first = (first + 2**15) % 2**16 - 2**15 if signed else first % 2**16
    return LookupTable(first, bits, entries)


def _expand_segments(
    words: NDArray[np.int64], bits: int, count: int, name: str
) -> NDArray[np.int64]:
    """Expand the segments of a table: DICOM PS3.3, C.7.9.2."""
    damaged = ImageError(f"{name}: damaged, the segments of its palette do not fit")
    data, entries, position = words.tolist(), list[int](), 0
    per_offset = 2 if bits == 16 else 4  # an offset of 32 bits, in words or in bytes
    while position + 2 < len(data) and len(entries) < count:
        if data[position] != 2:
            position = _expand_segment(data, position, entries, damaged)
            continue
        copies, low = data[position + 1], data[position + 2 : position + 2 + per_offset]
        offset = sum(word << (32 // per_offset * at) for at, word in enumerate(low))
        source = offset // 2 if bits == 16 else offset
        for _ in range(copies):
            if source >= position or len(entries) >= count or data[source] == 2:
                raise damaged
            source = _expand_segment(data, source, entries, damaged)
        position += 2 + per_offset
    if len(entries) < count:
        raise damaged
    return np.array(entries[:count], dtype=np.int64)


def _expand_segment(data: list[int], position: int, entries: list[int], damaged: ImageError) -> int:
    """Append the entries of a discrete or linear segment; return the position of the next one."""
    kind, length = data[position], data[position + 1]
    if kind == 0:
        end = position + 2 + length
        entries += data[position + 2 : end]
        return end
    if kind != 1 or not entries or position + 2 >= len(data):
        raise damaged
    line = np.linspace(entries[-1], data[position + 2], length + 1)[1:]
    entries += np.rint(line).astype(int).tolist()
    return position + 3
