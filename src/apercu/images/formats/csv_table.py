"""CSV tables as spreadsheets, pandas and surveys write them, row by row."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from apercu.errors import ImagesError

_ENCODINGS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DELIMITERS = (",", ";", "\t")
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?', re.IGNORECASE)
"""First line by which Excel says what separates the cells."""
_NO_TEXT = {b"PK\x03\x04": "a workbook", b"\xd0\xcf\x11\xe0": "a workbook", b"\x1f\x8b": "gzip'ed"}
"""First bytes of files that are no text, and what they are."""


class CsvRows:
    """The rows of a CSV file; those without any filled cell are left out.

    Args:
        reader: a `csv.reader`.
        skipped: number of lines in front of its first one.
    """

    def __init__(self, reader: Any, skipped: int) -> None:
        self._reader, self._skipped = reader, skipped

    @property
    def line_num(self) -> int:
        """The line of the file in which the last row ends."""
        return int(self._reader.line_num) + self._skipped

    def __iter__(self) -> Iterator[list[str]]:
        return self

    def __next__(self) -> list[str]:
        return next(cells for cells in self._reader if any(map(str.strip, cells)))


@contextmanager
def open_csv(path: Path) -> Iterator[CsvRows]:
    """Open a CSV file as an iterator of rows within a `with` block.

    The byte-order mark tells UTF-16 from UTF-8. Cells are separated by what stands most often in
    the header, a comma, a semicolon or a tab, or by what a first line `sep=;` names.

    Args:
        path: the file.

    Yields:
        The rows, the header first.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it is in another encoding.
        csv.Error: it is a file of another kind.
    """
    with path.open("rb") as raw:
        start = raw.read(4)
    if kind := next((kind for mark, kind in _NO_TEXT.items() if start.startswith(mark)), None):
        raise csv.Error(f"it is {kind}")
    encoding = _ENCODINGS.get(start[:2], "utf-8-sig")
    with path.open(newline="", encoding=encoding) as stream:
        skipped, delimiter, header = 0, None, stream.readline()
        while header:
            match = _SEPARATOR_LINE.fullmatch(header.strip("\r\n"))
            if header.strip() and match is None:
                break
            delimiter = match[1] if match else delimiter
            skipped, header = skipped + 1, stream.readline()
        delimiter = delimiter or max(_DELIMITERS, key=header.count)
        yield CsvRows(csv.reader(itertools.chain([header], stream), delimiter=delimiter), skipped)


def fill_cells(path: Path, line: int, cells: list[str], count: int) -> list[str]:
    """Return as many cells as the header has; those that are missing at the end are empty.

    Args:
        path: the table.
        line: line of the row.
        cells: cells of the row.
        count: number of columns.

    Returns:
        The cells.

    Raises:
        ImagesError: there are more.
    """
    if any(map(str.strip, cells[count:])):
        raise ImagesError(
            f"{path} line {line}: expected {count} cells like the header, got {len(cells)}; put "
            "quotes around a cell that holds the separator"
        )
    return [*cells[:count], *[""] * (count - len(cells))]


def list_names(names: Sequence[str]) -> str:
    """Return the names of columns for an error; of long and of many only the beginning.

    >>> list_names(["file", "label"]), list_names([])
    ('file, label', 'none')
    """
    more = " …" if len(names) > 12 else ""
    return ", ".join(name[:40] for name in names[:12]) + more or "none"


def describe_csv_error(path: Path, error: Exception) -> str:
    """Return why a table cannot be read, and what to do.

    >>> describe_csv_error(Path("a.csv"), IsADirectoryError(21, "Is a directory"))
    'a.csv: cannot be read as a CSV table in UTF-8 (Is a directory)'
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else error
    hint = "" if isinstance(error, OSError) else "; save it as CSV in UTF-8"
    return f"{path}: cannot be read as a CSV table in UTF-8 ({reason}){hint}"
