"""Read labels.csv and boxes.csv in any encoding, and check every row."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeAlias

from apercu.errors import ImagesError, suggest_nearest
from apercu.images.formats.csv_table import describe_csv_error, fill_cells, open_csv
from apercu.io import format_csv_rows, unescape_cell, write_file

Label: TypeAlias = str | int

LABELS_FILE = "labels.csv"
"""Name of the table in a folder."""
INDEX_COLUMN = "class_index"
LABEL_COLUMNS = (INDEX_COLUMN, "class", "label", "name", "finding", "wnid")
"""Names of columns that may hold the labels; the first that labels.csv has is used."""

SEVERAL = "labels"
"""Name of the column that holds several classes of an image, with `|` between them."""
TRUTHS = {"0": False, "0.0": False, "false": False, "1": True, "1.0": True, "true": True}
"""Cells, in lower case, that say whether an image has the class of a column."""
UNKNOWN = ("", "nan", "na", "-1", "-1.0")
"""Cells, in lower case, that say that nobody knows whether an image has the class of a column."""

MAX_DIGITS = 9
"""Digits of a class index."""
_ROW_NUMBERS = re.compile(r"(unnamed: \d+|__index_level_\d+__)?")
"""Names, in lower case, of columns in which pandas writes the numbers of the rows."""
_WHOLE = re.compile(r"-?\d+(\.0+)?")
_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class BoxRow(NamedTuple):
    """One row of boxes.csv.

    Attributes:
        line: line of the row in the file.
        label: label of the box; None if the table has no column of labels.
        corners: the box as xmin, ymin, xmax, ymax in pixels of the stored picture.
    """

    line: int
    label: Label | None
    corners: tuple[float, float, float, float]


def read_labels(path: Path, *, skips_empty: bool = False) -> tuple[str, dict[str, Label]]:
    """Read the label of each file from labels.csv.

    Args:
        path: the table.
        skips_empty: whether a file with an empty cell is left out; it is an error otherwise.

    Returns:
        The name of the label column, and the label of each file in the order of the table.

    Raises:
        ImagesError: there is no column `file` or no label column, a file is listed twice, a cell
            is empty, or a class index is not a whole number.
    """
    labels: dict[str, Label] = {}
    table = _read_table(path)
    table.require_columns("file")
    column = next((name for name in LABEL_COLUMNS if name in table.columns), None)
    if column is None:
        others = [name for name in table.columns if name != "file"]
        suggestions = (suggest_nearest(name, LABEL_COLUMNS) for name in others)
        raise ImagesError(
            f"{path}: expected a column of labels ({', '.join(LABEL_COLUMNS)}), "
            f"got {', '.join(table.columns)}{next(filter(None, suggestions), '')}"
        )
    rows = list(table.rows)
    write_whole_numbers([row.cells for row in rows], column)
    for row in rows:
        file = row.read_text("file")
        if file in labels:
            raise ImagesError(f"{row.location}: {file} is listed twice, expected once")
        if row.cells[column].strip() or not skips_empty:
            labels[file] = row.read_label(column)
    return column, labels


def write_whole_numbers(rows: Sequence[dict[str, str]], column: str) -> None:
    """Write `1.0` as `1` in a column of which all cells are whole numbers, or unknown.

    Programs write whole numbers in this way where some cells are empty.

    Args:
        rows: cells of each row by the names of the columns; they are changed.
        column: name of the column.

    >>> rows = [{"label": "1.0"}, {"label": ""}, {"label": "2"}]
    >>> write_whole_numbers(rows, "label")
    >>> [row["label"] for row in rows]
    ['1', '', '2']
    """
    cells = [row[column].strip() for row in rows]
    if all(is_unknown(cell) or _WHOLE.fullmatch(cell) for cell in cells):
        for row, cell in zip(rows, cells, strict=True):
            row[column] = cell.partition(".")[0]


def is_class_column(name: str, cells: Iterable[str]) -> bool:
    """Whether a column says of each image if it has a class.

    Args:
        name: name of the column in lower case; one that counts the rows holds no class.
        cells: cells of the column; those that say that nobody knows are not counted.

    Returns:
        Whether half of the cells or more are 0 or 1, or false or true, or all others are one and
        the same mark.

    >>> is_class_column("mass", ["1", "0.0", "", "NaN", "-1"])
    True
    >>> is_class_column("age", ["40", "1", "7"]), is_class_column("unnamed: 0", ["0", "1"])
    (False, False)
    >>> is_class_column("mass", ["True", "False"])
    True
    >>> is_class_column("mass", ["1", "?", "?", "?"])  # a mark that is refused is not overlooked
    True
    """
    if _ROW_NUMBERS.fullmatch(name):
        return False
    filled = [cell for cell in cells if not is_unknown(cell)]
    others = [cell for cell in filled if cell.lower() not in TRUTHS]
    is_mark = len(set(others)) == 1 and not any(letter.isdigit() for letter in others[0])
    return len(others) < len(filled) and (2 * len(others) <= len(filled) or is_mark)


def is_unknown(cell: str) -> bool:
    """Whether a cell of a column of 0 and 1 says that nobody knows.

    >>> is_unknown("NA"), is_unknown("?")
    (True, False)
    """
    return cell.lower() in UNKNOWN


def holds_several(path: Path) -> bool:
    """Whether a table gives several classes per image: in a column `labels`, or one for each class.

    Raises:
        ImagesError: the table cannot be read.
    """
    table = _read_table(path)
    if "file" not in table.columns or set(LABEL_COLUMNS).intersection(table.columns):
        return False
    rows = [row.cells for row in table.rows]
    others = [name for name in table.columns if name not in ("file", SEVERAL)]
    return SEVERAL in table.columns or any(
        is_class_column(name, (cells[name].strip() for cells in rows)) for name in others
    )


def has_empty_labels(path: Path) -> bool:
    """Whether a table has a column of labels of which some cells are empty.

    Raises:
        ImagesError: the table cannot be read.
    """
    table = _read_table(path)
    column = next((name for name in LABEL_COLUMNS if name in table.columns), None)
    return column is not None and any(not row.cells[column].strip() for row in table.rows)


def read_boxes(path: Path, column: str | None) -> dict[str, tuple[BoxRow, ...]]:
    """Read the boxes of each file from boxes.csv.

    Args:
        path: the table.
        column: name of the label column, which boxes.csv may have too; None if there are no labels.

    Returns:
        The rows of each file.

    Raises:
        ImagesError: a column is missing, a corner is not a finite number, or a box is empty.
    """
    boxes: dict[str, tuple[BoxRow, ...]] = {}
    table = _read_table(path)
    table.require_columns("file", *_CORNERS)
    rows = list(table.rows)
    column = column if column in table.columns else None
    if column is not None:
        write_whole_numbers([row.cells for row in rows], column)
    for row in rows:
        file = row.read_text("file")
        xmin, ymin, xmax, ymax = (row.read_number(corner) for corner in _CORNERS)
        if xmin >= xmax or ymin >= ymax:
            raise ImagesError(
                f"{row.location}: expected xmin < xmax and ymin < ymax, "
                f"got {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
            )
        label = row.read_label(column) if column is not None else None
        box = BoxRow(row.line, label, (xmin, ymin, xmax, ymax))
        boxes[file] = (*boxes.get(file, ()), box)
    return boxes


@dataclass(frozen=True)
class LabelTable:
    """A table of labels that grows while people label: every change is written at once, whole.

    Other columns of the table stay as they are. A reader never sees half a table, and a process
    that is killed loses nothing.

    Attributes:
        path: the table, which need not exist.
        classes: names of the classes, which a column `class_index` counts.
    """

    path: Path
    classes: tuple[str, ...] = ()

    def read(self) -> dict[str, str]:
        """Return the label of each file that has one, as text; empty where there is no table.

        Raises:
            ImagesError: as in `read_labels`, or an index is that of no class.
        """
        if not self.path.is_file():
            return {}
        labels = read_labels(self.path, skips_empty=True)[1]
        return {file: self._name(label) for file, label in labels.items()}

    def write(self, file: str, label: str | None) -> None:
        """Write the label of one file.

        Args:
            file: the file, relative to the folder of the table.
            label: name of its class; None takes it away, and with it its row where the row holds
                nothing else.

        Raises:
            ImagesError: the table cannot be read, or the label is none of the classes that its
                `class_index` counts.
            OutputError: the table cannot be written; the older one is kept.
        """
        columns, rows = ["file", "name"], []
        headings = columns
        if self.path.is_file():
            table = _read_table(self.path)
            columns, headings = table.columns, table.headings
            rows = [
                [unescape_cell(row.cells[column].strip()) for column in columns]
                for row in table.rows
            ]
            column = read_labels(self.path, skips_empty=True)[0]
        else:
            column = "name"
        at_file, at_label = columns.index("file"), columns.index(column)
        present = next((row for row in rows if row[at_file] == file), None)
        if label is None:
            others = {*range(len(columns))} - {at_file, at_label}
            rows = [row for row in rows if row is not present or any(row[at] for at in others)]
            if present is not None:
                present[at_label] = ""
        else:
            if present is None:
                present = ["" for _ in columns]
                rows.append(present)
            present[at_file], present[at_label] = file, self._format(label, column)
        write_file(self.path, format_csv_rows([headings, *rows]))

    def _name(self, label: Label) -> str:
        if isinstance(label, str):
            return label
        if label >= len(self.classes) > 0:
            raise ImagesError(
                f"{self.path}: expected a class_index below {len(self.classes)}, got {label}"
            )
        return self.classes[label] if self.classes else str(label)

    def _format(self, label: str, column: str) -> str:
        if column != INDEX_COLUMN:
            return label
        if label not in self.classes:
            raise ImagesError(f"{self.path}: its class_index has no number for the class {label}")
        return str(self.classes.index(label))


@dataclass(frozen=True)
class _Row:
    """One row of a CSV table; each `read_` method raises ImagesError if the cell is wrong."""

    path: Path
    line: int
    cells: dict[str, str]

    @property
    def location(self) -> str:
        """File and line, for error messages."""
        return f"{self.path} line {self.line}"

    def read_text(self, column: str) -> str:
        """Return a cell, which must not be empty."""
        value = unescape_cell(self.cells[column].strip())
        if not value:
            raise ImagesError(f"{self.location}: expected a {column}, got nothing")
        return value

    def read_label(self, column: str) -> Label:
        """Return a class index, or a class name, depending on the column."""
        value = self.read_text(column)
        if column != INDEX_COLUMN:
            return value
        if not value.isdecimal() or len(value) > MAX_DIGITS:
            raise ImagesError(
                f"{self.location}: expected a class_index from 0 upwards, got {value[:80]}"
            )
        return int(value)

    def read_number(self, column: str) -> float:
        """Return a finite number."""
        value = self.read_text(column)
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ImagesError(f"{self.location}: expected a number for {column}, got {value[:80]}")
        return number


@dataclass(frozen=True)
class _Table:
    """A CSV table; `columns` are its headings in lower case."""

    path: Path
    headings: list[str]
    columns: list[str]
    rows: Iterator[_Row]

    def require_columns(self, *names: str) -> None:
        """Raise ImagesError if a column is missing."""
        missing = next((name for name in names if name not in self.columns), None)
        if missing is not None:
            is_file = missing == "file"
            advice = "; rename the column that holds them" if is_file and self.columns else ""
            raise ImagesError(
                f"{self.path}: expected a column {missing}"
                f"{' with the names of the images' if is_file else ''}, "
                f"got {', '.join(self.columns) or 'an empty file'}"
                f"{suggest_nearest(missing, self.columns) or advice}"
            )


def _read_table(path: Path) -> _Table:
    """Read a CSV table in UTF-8; missing cells at the end of a row are empty."""
    try:
        with open_csv(path) as lines:
            headings = [name.strip() for name in next(lines, [])]
            columns = [name.lower() for name in headings]
            count = len(columns)
            numbered = [(lines.line_num, cells) for cells in lines]
    except (OSError, UnicodeError, csv.Error) as error:
        raise ImagesError(describe_csv_error(path, error)) from error
    rows = (
        _Row(path, line, dict(zip(columns, fill_cells(path, line, cells, count), strict=True)))
        for line, cells in numbered
    )
    return _Table(path, headings, columns, rows)
