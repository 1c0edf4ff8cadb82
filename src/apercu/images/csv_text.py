"""Open CSV files as spreadsheets write them: byte-order marks, UTF-16, semicolons and tabs."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_DELIMITERS = (",", ";", "\t")


@contextmanager
def open_csv(path: Path) -> Iterator[Any]:
    """Open a CSV file as a `csv.reader` within a `with` block.

    The byte-order mark tells UTF-16 from UTF-8. Cells are separated by what stands most often in
    the header: a comma, a semicolon or a tab.

    Args:
        path: The file.

    Yields:
        The reader, before the header.

    Raises:
        OSError: the file cannot be read.
        UnicodeError: it is in another encoding.
    """
    with path.open("rb") as raw:
        encoding = _MARKS.get(raw.read(2), "utf-8-sig")
    with path.open(newline="", encoding=encoding) as stream:
        header = stream.readline()
        stream.seek(0)
        delimiter = max(_DELIMITERS, key=header.count)
        yield csv.reader(stream, delimiter=delimiter)
