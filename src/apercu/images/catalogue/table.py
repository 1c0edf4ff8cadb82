"""What a catalogue is: named columns of one length."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, ImagesError, suggest_nearest
from apercu.images.formats.fits_compression import GZIP_MAGIC as GZIP
from apercu.images.formats.fits_compression import gunzip
from apercu.images.formats.fits_hdus import require_astropy
from apercu.images.names import has_suffix
from apercu.images.warnings import silence_warnings

MISSING_VALUES = (99.0, -99.0, -999.0, -9999.0)
"""What surveys write where they know no number."""

_EMPTY_WORDS = frozenset(("", "nan", "na", "n/a", "null", "none", "--"))
_MAX_COLUMNS_SHOWN = 8  # columns that an error line names


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Columns of a table; None, or NaN among floats, where a value is missing."""

    path: Path
    columns: Mapping[str, NDArray[Any]] = field(repr=False)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def column(self, name: str) -> NDArray[Any]:
        """One column as it was read.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.columns:
            listed = ", ".join(list(self.columns)[:_MAX_COLUMNS_SHOWN]) + " …" * (
                len(self.columns) > _MAX_COLUMNS_SHOWN
            )
            raise ConfigError(
                f"{self.path}: no column {name}, got {listed}{suggest_nearest(name, self.columns)}"
            )
        return self.columns[name]

    def numbers(
        self, name: str, missing: tuple[float, ...] = MISSING_VALUES
    ) -> NDArray[np.float64]:
        """One column as numbers, NaN where it is empty, null, infinite, or one of `missing`.

        Raises:
            ConfigError: there is no such column, or it holds something else.
        """
        values = self.column(name)
        if values.dtype.kind == "O":
            numbers = np.array([self._parse_number(name, row, v) for row, v in enumerate(values)])
        else:
            numbers = values.astype(np.float64)
        numbers[np.isinf(numbers) | np.isin(numbers, missing)] = np.nan
        return numbers

    def _parse_number(self, name: str, row: int, value: object) -> float:
        if value is None or str(value).casefold() in _EMPTY_WORDS:
            return float("nan")
        try:
            return float(value)  # type: ignore[arg-type]
        except (ValueError, TypeError, OverflowError) as error:
            raise ConfigError(
                f"{self.path}: expected numbers in column {name}, got {value} in row {row + 1}"
            ) from error


Columns: TypeAlias = Mapping[str, NDArray[Any]]


def read_catalogue(path: str | Path) -> Catalogue:
    """Reads a table by its suffix: `.csv` in UTF-8 with a header, `.parquet`, or FITS.

    Of a FITS file the first table counts. Columns of several values per row, of bytes or of dates
    are left out. Raises ImagesError for a file that is missing, damaged or of another kind, and for
    a table without rows.
    """
    path = Path(path)
    reader = next(
        (read for suffix, read in READERS.items() if has_suffix(path.name, (suffix,))), None
    )
    if reader is None:
        raise ImagesError(f"{path}: expected a catalogue that ends in {' '.join(READERS)}")
    if not path.is_file():
        raise ImagesError(f"{path}: no such catalogue")
    columns = reader(path)
    if not columns or not len(next(iter(columns.values()))):
        raise ImagesError(f"{path}: a catalogue without rows")
    return Catalogue(path, columns)


def _read_csv(path: Path) -> Columns:
    """Every column as text, None where a cell is empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            names = [name.strip() for name in next(lines, [])]
            rows = [(lines.line_num, cells) for cells in lines if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImagesError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from error
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ImagesError(f"{path}: expected each column once, got {twice or 'no name'} twice")
    for line, cells in rows:
        if len(cells) != len(names):
            raise ImagesError(
                f"{path} line {line}: expected {len(names)} cells like the header, got {len(cells)}"
            )
    return {
        name: _strip_texts([cells[place] for _, cells in rows]) for place, name in enumerate(names)
    }


def _read_parquet(path: Path) -> Columns:
    """Numbers, bools and text; None where a value is missing, NaN among floats."""
    import pyarrow as pa
    from pyarrow import parquet, types

    try:
        schema = parquet.read_schema(path)
        plain = [field.name for field in schema if _is_plain(field.type)]
        table = parquet.read_table(path, columns=plain)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ImagesError(f"{path}: not a Parquet file that can be read ({reason})") from error
    columns: dict[str, NDArray[Any]] = {}
    for name in plain:
        values = table[name]
        if types.is_dictionary(values.type):
            values = values.cast(values.type.value_type)
        columns[name] = (
            _strip_texts(values.to_pylist())
            if types.is_string(values.type) or types.is_large_string(values.type)
            else _to_objects(values)
            if values.null_count and not types.is_floating(values.type)
            else values.to_numpy()
        )
    return columns


def _is_plain(kind: Any) -> bool:
    from pyarrow import types

    if types.is_dictionary(kind):
        kind = kind.value_type
    tests: tuple[Callable[[Any], bool], ...] = (
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_string,
        types.is_large_string,
    )
    return any(test(kind) for test in tests)


def _to_objects(values: Any) -> NDArray[Any]:
    """Whole numbers or bools, of which some are missing: no digit may be lost to a float."""
    return np.array(values.to_pylist(), dtype=object)


def _read_fits(path: Path) -> Columns:
    """The first table; None where a value is masked, NaN among floats."""
    require_astropy(str(path))
    from astropy.io import fits
    from astropy.table import Table

    with silence_warnings("astropy"):
        try:
            with path.open("rb") as stream:
                packed = stream.read(2) == GZIP
                stream.seek(0)
                plain = gunzip(stream, str(path), lambda start: None) if packed else stream
                with fits.open(plain, memmap=False) as file:
                    tables = [
                        hdu for hdu in file if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
                    ]
                    if not tables:
                        raise ImagesError(f"{path}: a FITS file without tables")
                    table = Table.read(tables[0])
                    return {
                        name: _convert_column(table[name])
                        for name in table.colnames
                        if table[name].ndim == 1
                    }
        except (ImagesError, ImageError):
            raise
        except Exception as error:  # whatever hostile bytes make astropy stumble over
            raise ImagesError(f"{path}: damaged or cut short ({type(error).__name__})") from error


def _convert_column(column: Any) -> NDArray[Any]:
    """A column of an astropy table, without its mask."""
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
    return np.array(
        [None if m else v.item() for v, m in zip(values, mask, strict=True)], dtype=object
    )


def _strip_texts(values: list[Any]) -> NDArray[Any]:
    """Text without the blanks around it; None where there is nothing."""
    stripped = [None if value is None else str(value).strip() or None for value in values]
    found = np.empty(len(stripped), dtype=object)
    found[:] = stripped
    return found


READERS: dict[str, Callable[[Path], Columns]] = {
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".fits": _read_fits,
    ".fit": _read_fits,
    ".fts": _read_fits,
    ".fits.gz": _read_fits,
}
"""By suffix."""
