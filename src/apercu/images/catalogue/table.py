"""What a catalogue is: named columns of one length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, suggest_nearest

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
