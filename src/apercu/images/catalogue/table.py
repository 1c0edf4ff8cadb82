"""`Catalogue`: named columns of one length, read from CSV, Parquet or FITS tables."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, ImagesError, suggest_nearest
from apercu.extras import require_extra
from apercu.images.formats.csv_table import describe_csv_error, open_csv
from apercu.images.formats.decoder_errors import silence_warnings
from apercu.images.formats.fits_compression import GZIP_MAGIC, gunzip
from apercu.images.formats.fits_hdus import FITS_MAGIC, fits_errors
from apercu.images.names import has_suffix

MISSING_VALUES = (99.0, -99.0, -999.0, -9999.0)
"""Numbers that surveys write for an unknown value."""

_EMPTY_WORDS = frozenset(("", "nan", "na", "n/a", "null", "none", "--"))
_MAX_COLUMNS_SHOWN = 8  # in an error message
_HEADER_LINE = re.compile(r"#\s*(?P<number>[1-9]\d*)\s+(?P<name>\S+)")

Columns: TypeAlias = Mapping[str, NDArray[Any]]
"""Arrays of one length by name."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """The columns of a table; a missing value is NaN in a column of floats, and None in others.

    Attributes:
        path: file of the table.
        columns: values by the name of their column, one per row.
    """

    path: Path
    columns: Mapping[str, NDArray[Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> NDArray[Any]:
        """Return one column as it was read.

        Raises:
            ConfigError: there is no such column.
        """
        if name not in self.columns:
            names = ", ".join(list(self.columns)[:_MAX_COLUMNS_SHOWN])
            more = " …" if len(self.columns) > _MAX_COLUMNS_SHOWN else ""
            suggestion = suggest_nearest(name, self.columns)
            raise ConfigError(f"{self.path}: no column {name}, got {names}{more}{suggestion}")
        return self.columns[name]

    def numbers(
        self, name: str, missing: tuple[float, ...] = MISSING_VALUES
    ) -> NDArray[np.float64]:
        """Return one column as numbers.

        Args:
            name: name of the column.
            missing: numbers that stand for an unknown value.

        Returns:
            One number per row; NaN where it is empty, null, infinite, or one of `missing`.

        Raises:
            ConfigError: there is no such column, or a value is not a number.
        """
        values = self.column(name)
        if values.dtype.kind == "O":
            numbers = np.array(
                [self._parse_number(name, row, value) for row, value in enumerate(values)]
            )
        else:
            numbers = values.astype(np.float64)
        numbers[np.isinf(numbers) | np.isin(numbers, missing)] = np.nan
        return numbers

    def format_rows(self) -> Iterator[list[str]]:
        """Yield the cells of each row as text.

        A missing value is empty, and a whole number has no point.
        """
        for row in zip(*self.columns.values(), strict=True):
            yield [_format_cell(value) for value in row]

    def _parse_number(self, name: str, row: int, value: object) -> float:
        """Convert one cell to a number, NaN if it is empty; raise ConfigError for other texts."""
        if value is None or str(value).casefold() in _EMPTY_WORDS:
            return float("nan")
        try:
            return float(value)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{self.path}: expected numbers in column {name}, got {value} in row {row + 1}"
            ) from error


def _format_cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value)


def read_catalogue(path: str | Path) -> Catalogue:
    """Read a table: `.csv` with a header, `.parquet`, FITS, or what SExtractor writes (`.cat`).

    Of a FITS file it is the first table, or all LDAC_OBJECTS.

    Columns with several values per row, with bytes or with dates are left out.

    Args:
        path: the file; its suffix tells the format.

    Returns:
        The catalogue.

    Raises:
        ImagesError: the file is missing, damaged, of another format, or a table without rows.
    """
    path = Path(path)
    readers = (READERS[suffix] for suffix in READERS if has_suffix(path.name, (suffix,)))
    reader = next(readers, None)
    if reader is None:
        raise ImagesError(f"{path}: expected a catalogue that ends in {' '.join(READERS)}")
    if not path.is_file():
        raise ImagesError(f"{path}: no such catalogue")
    columns = reader(path)
    if not columns or not len(next(iter(columns.values()))):
        raise ImagesError(f"{path}: a catalogue without rows")
    return Catalogue(path, columns)


def _read_csv(path: Path) -> Columns:
    """Read every column as text; None where a cell is empty."""
    try:
        with open_csv(path) as lines:
            names = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, cells) for cells in lines]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ImagesError(describe_csv_error(path, error)) from error
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ImagesError(f"{path}: expected each column once, got {repeated or 'no name'} twice")
    for line, cells in rows:
        if len(cells) != len(names):
            raise ImagesError(
                f"{path} line {line}: expected {len(names)} cells like the header, got {len(cells)}"
            )
    return {
        name: _strip_texts([cells[index] for _, cells in rows]) for index, name in enumerate(names)
    }


def _read_cat(path: Path) -> Columns:
    """Read what SExtractor writes as `.cat`: a FITS table, or text with a numbered header."""
    try:
        with path.open("rb") as stream:
            is_fits = stream.read(len(FITS_MAGIC)) == FITS_MAGIC
        if is_fits:
            return _read_fits(path)
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImagesError(f"{path}: cannot be read as a table of SExtractor ({error})") from error
    headers = (_HEADER_LINE.match(line) for line in lines if line.startswith("#"))
    places = {match["name"]: int(match["number"]) - 1 for match in headers if match}
    rows = [line.split() for line in lines if line.strip() and not line.startswith("#")]
    shortest = max(places.values(), default=0) + 1
    for number, cells in enumerate(rows, start=1):
        if len(cells) < shortest:
            raise ImagesError(
                f"{path}: expected at least {shortest} numbers in row {number}, got {len(cells)}"
            )
    if not places:
        raise ImagesError(
            f"{path}: expected a FITS table, or a header such as `# 1 NUMBER` (ASCII_HEAD)"
        )
    return {name: _strip_texts([cells[place] for cells in rows]) for name, place in places.items()}


def _read_parquet(path: Path) -> Columns:
    """Read columns of numbers, bools and text; a missing value is None, or NaN among floats."""
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(path)
        names = [field.name for field in schema if _is_plain(field.type)]
        table = parquet.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ImagesError(f"{path}: not a Parquet file that can be read ({reason})") from error
    columns: dict[str, NDArray[Any]] = {}
    for name in names:
        values = table[name]
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        if types.is_string(values.type) or types.is_large_string(values.type):
            columns[name] = _strip_texts(values.to_pylist())
        elif values.null_count and not types.is_floating(values.type):
            columns[name] = np.array(values.to_pylist(), dtype=object)  # floats would lose digits
        else:
            columns[name] = values.to_numpy()
    return columns


def _is_plain(data_type: Any) -> bool:
    """Return whether an Arrow type is one of numbers, bools or text."""
    from pyarrow import types

    if types.is_dictionary(data_type):
        data_type = data_type.value_type
    tests: tuple[Callable[[Any], bool], ...] = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
    )
    return any(test(data_type) for test in tests)


def _read_fits(path: Path) -> Columns:
    """Read the first table; a masked value is None, or NaN among floats."""
    require_extra("astro", str(path))
    from astropy.io import fits
    from astropy.table import Table

    with silence_warnings("astropy"):
        try:
            with path.open("rb") as stream:
                is_gzip = stream.read(2) == GZIP_MAGIC
                stream.seek(0)
                content = gunzip(stream, str(path), lambda start: None) if is_gzip else stream
                with fits.open(content, memmap=False) as file:
                    kinds = fits.BinTableHDU | fits.TableHDU
                    tables = _choose([hdu for hdu in file if isinstance(hdu, kinds)])
                    columns = [_convert_table(Table.read(table)) for table in tables]
        except (ImagesError, ImageError):
            raise
        except fits_errors() as error:
            raise ImagesError(f"{path}: damaged or cut short ({type(error).__name__})") from error
    if not columns:
        raise ImagesError(f"{path}: a FITS file without tables")
    return _join_tables(columns)


def _choose(tables: list[Any]) -> list[Any]:
    """Return the tables of objects: of SExtractor's pairs (FITS_LDAC) the second, else the first.

    SExtractor writes a pair for each image: LDAC_IMHEAD with its header, LDAC_OBJECTS.
    """
    objects = [table for table in tables if table.name == "LDAC_OBJECTS"]
    others = [table for table in tables if table.name != "LDAC_IMHEAD"]
    return objects or others[:1] or tables[:1]


def _convert_table(table: Any) -> Columns:
    """Convert the columns of an astropy table that hold one value per row."""
    return {name: _convert_column(table[name]) for name in table.colnames if table[name].ndim == 1}


def _join_tables(tables: list[Columns]) -> Columns:
    """Put tables below each other, with the columns that all of them have."""
    if len(tables) == 1:
        return tables[0]
    names = [name for name in tables[0] if all(name in table for table in tables)]
    return {name: np.concatenate([table[name] for table in tables]) for name in names}


def _convert_column(column: Any) -> NDArray[Any]:
    """Convert a masked column of an astropy table to an array."""
    mask = np.broadcast_to(np.ma.getmaskarray(column), column.shape)
    values = np.asarray(column)
    if values.dtype.kind in "US":
        texts = np.char.decode(values, "utf-8", "replace") if values.dtype.kind == "S" else values
        return _strip_texts(
            [None if masked else text for text, masked in zip(texts, mask, strict=True)]
        )
    if values.dtype.kind == "f":
        return np.where(mask, np.nan, values).astype(np.float64)
    if not mask.any():
        return values.astype(values.dtype.newbyteorder("="))
    pairs = zip(values, mask, strict=True)
    return np.array([None if masked else value.item() for value, masked in pairs], dtype=object)


def _strip_texts(values: list[Any]) -> NDArray[Any]:
    """Return texts without the blanks around them; None where a text is empty."""
    texts = np.empty(len(values), dtype=object)
    texts[:] = [None if value is None else str(value).strip() or None for value in values]
    return texts


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".fits": _read_fits,
    ".fit": _read_fits,
    ".fts": _read_fits,
    ".fits.gz": _read_fits,
    ".ldac": _read_fits,
    ".cat": _read_cat,
}
"""The reader of each suffix."""
