"""labels.csv and boxes.csv -> rows that are known to be sound, each with its line."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeAlias

from apercu.errors import ImagesError, suggest_nearest

Label: TypeAlias = str | int

INDEX_COLUMN = "class_index"
LABEL_COLUMNS = (INDEX_COLUMN, "class", "label", "name", "finding", "wnid")
"""The first of these that labels.csv has gives the labels."""

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


class BoxRow(NamedTuple):
    """One line of boxes.csv; `label` is None where the table does not say what is framed."""

    line: int
    label: Label | None
    corners: tuple[float, float, float, float]


def read_labels(path: Path) -> tuple[str, dict[str, Label]]:
    """The column that holds the labels, and the label of each file, in the order of the table.

    Raises ImagesError for a table without `file` or without any label column, for a file listed
    twice, for an empty cell, and for a class index that is no whole number.
    """
    labels: dict[str, Label] = {}
    columns, rows = _read_table(path)
    _require_columns(path, columns, ("file",))
    column = next((name for name in LABEL_COLUMNS if name in columns), None)
    if column is None:
        hints = (suggest_nearest(found, LABEL_COLUMNS) for found in columns if found != "file")
        raise ImagesError(
            f"{path}: expected a column of labels ({', '.join(LABEL_COLUMNS)}), "
            f"got {', '.join(columns)}{next(filter(None, hints), '')}"
        )
    for line, row in rows:
        file = _read_cell(path, line, row, "file")
        if file in labels:
            raise ImagesError(f"{path} line {line}: {file} is listed twice, expected once")
        labels[file] = _read_label(path, line, row, column)
    return column, labels


def read_boxes(path: Path, column: str | None) -> dict[str, tuple[BoxRow, ...]]:
    """The boxes of each file; with `column`, labelled by it where boxes.csv has that column too.

    Raises ImagesError for a missing column, a corner that is no finite number, and a box whose
    near edge is not below its far edge.
    """
    boxes: dict[str, tuple[BoxRow, ...]] = {}
    columns, rows = _read_table(path)
    _require_columns(path, columns, ("file", *_CORNERS))
    for line, row in rows:
        file = _read_cell(path, line, row, "file")
        xmin, ymin, xmax, ymax = (_read_number(path, line, row, corner) for corner in _CORNERS)
        if xmin >= xmax or ymin >= ymax:
            raise ImagesError(
                f"{path} line {line}: expected xmin < xmax and ymin < ymax, "
                f"got {xmin:g}, {ymin:g}, {xmax:g}, {ymax:g}"
            )
        label = _read_label(path, line, row, column) if column and column in columns else None
        box = BoxRow(line, label, (xmin, ymin, xmax, ymax))
        boxes[file] = (*boxes.get(file, ()), box)
    return boxes


def _read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str | None]]]]:
    """The header, in lower case, and the rows with their line numbers, read once and whole."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            lines = csv.reader(stream)
            columns = [name.strip().lower() for name in next(lines, [])]
            rows = [(lines.line_num, cells) for cells in lines if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImagesError(f"{path}: cannot be read as a CSV table in UTF-8 ({error})") from error
    padded = (
        (line, dict(zip(columns, [*cells, *([None] * len(columns))], strict=False)))
        for line, cells in rows
    )
    return columns, padded


def _require_columns(path: Path, columns: list[str], wanted: tuple[str, ...]) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise ImagesError(
            f"{path}: expected a column {missing[0]}, got {', '.join(columns) or 'an empty file'}"
            f"{suggest_nearest(missing[0], columns)}"
        )


def _read_cell(path: Path, line: int, row: dict[str, str | None], column: str) -> str:
    value = (row[column] or "").strip()
    if not value:
        raise ImagesError(f"{path} line {line}: expected a {column}, got nothing")
    return value


def _read_label(path: Path, line: int, row: dict[str, str | None], column: str) -> Label:
    value = _read_cell(path, line, row, column)
    if column != INDEX_COLUMN:
        return value
    if not value.isdecimal():
        raise ImagesError(f"{path} line {line}: expected a class_index from 0 upwards, got {value}")
    return int(value)


def _read_number(path: Path, line: int, row: dict[str, str | None], column: str) -> float:
    value = _read_cell(path, line, row, column)
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ImagesError(f"{path} line {line}: expected a number for {column}, got {value}")
    return number
