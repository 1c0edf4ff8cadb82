"""Tables of labels: one class per image, or several, and the group of each."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from apercu.errors import ImagesError, suggest_nearest
from apercu.images import ImageSource
from apercu.images.catalogue.table import READERS, read_catalogue
from apercu.images.folder import FolderImages
from apercu.images.label_tables import (
    LABEL_COLUMNS,
    LABELS_FILE,
    SEVERAL,
    TRUTHS,
    describe_csv_error,
    has_empty_labels,
    holds_several,
    is_class_column,
    is_unknown,
    open_csv,
)
from apercu.images.listing import EVERYTHING
from apercu.images.names import has_suffix
from apercu.io import check_path, is_file, unescape_cell

FILE = "file"
TABLES = tuple(suffix for suffix in READERS if suffix != ".csv")
"""Ends of the names of tables that are not CSV."""


@dataclass(frozen=True, eq=False)
class LabelRows:
    """The rows of a table of labels.

    Args:
        path: the table.
        classes: names of the classes, in the order of the columns, or of the alphabet.
        labels: names of the true classes of each file; files without a label are left out.
        groups: the group of each file; None where no column was asked for.
        is_multiple: whether an image may have several classes, or none.
        unused: titles of the columns that hold neither labels nor groups.
        unknown: names of the classes of which nobody knows whether a file has them; only of files
            with a label that have such classes.
        unlabelled: files that are left out, as their label is empty, or all their cells in columns
            of 0 and 1 are unknown.
        has_columns: whether each class has a column of 0 and 1.
    """

    path: Path
    classes: tuple[str, ...]
    labels: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, str] | None
    is_multiple: bool
    unused: tuple[str, ...] = ()
    unknown: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: tuple[str, ...] = ()
    has_columns: bool = False

    def match(self, source: ImageSource) -> dict[int, str]:
        """Return the file of each image that has a label, by the index of the image.

        See `match_files` for how files are named.

        Raises:
            ImagesError: no image is in the table, or one is there under two names with two labels.
        """
        matched: dict[int, str] = {}
        for index, files in match_files(self.labels, self.path, source).items():
            if len({(self.labels[file], self.unknown.get(file)) for file in files}) > 1:
                raise ImagesError(
                    f"{self.path}: {files[0]} and {files[1]} are one image with two labels; "
                    "expected it once"
                )
            matched[index] = files[0]
        if not self.labels:
            raise ImagesError(f"{self.path}: gives no image a label; fill its cells in")
        if not matched:
            raise ImagesError(
                f"{self.path}: no label belongs to an image of {source.name}: the table names "
                f"{next(iter(self.labels))}, the images are called {source.names[0]}; expected the "
                "same names"
            )
        return matched

    def find_unknown(self, file: str, classes: Sequence[str]) -> list[int]:
        """Return the indices of the classes of which nobody knows whether a file has them.

        In a table with a column for each class, these are also the classes without a column.
        """
        if not (self.has_columns and self.is_multiple):
            return []
        known = set(self.classes).difference(self.unknown.get(file, ()))
        return [index for index, name in enumerate(classes) if name not in known]


def read_label_rows(path: str | Path, group: str | None = None) -> LabelRows:
    """Read a table, CSV, Parquet or FITS, with a column `file` and the classes of each file.

    The classes are in one of the columns that `labels.csv` may have (one class per image), in a
    column `labels` (several, with `|` between them; an empty cell is an image without any), or in
    a column of 0 and 1, or of False and True, for each class; a single such column `x` gives the
    classes `not x` and `x`, of which an image has one. An empty cell in a column of one class means
    that nobody has labelled the image. In columns of 0 and 1 an empty cell, `nan`, `NA` or -1 means
    that nobody knows if the image has this class; where that holds for all classes, the image has
    no label.

    Args:
        path: the table.
        group: name of the column of groups, such as patients, which stay in one part.

    Returns:
        The rows.

    Raises:
        ImagesError: the table cannot be read, a column is missing, a file is listed twice, a cell
            in a column of 0 and 1 is something else, or a file with a label has no group.
    """
    check_path("labels", path)
    path = Path(path)
    titles, rows = _read_cells(path)
    columns = list(titles)
    if not columns:
        raise ImagesError(f"{path}: expected a column {FILE}, got an empty file")
    if FILE not in columns:
        raise ImagesError(
            f"{path}: expected a column {FILE} with the names of the images, got "
            f"{', '.join(titles.values())}; rename the column that holds them"
        )
    group = None if group is None else group.strip().lower()
    if group is not None:
        _require_column(path, group, columns)
    one = next((name for name in LABEL_COLUMNS if name in columns and name != group), None)
    is_multiple = SEVERAL in columns or one is None
    labels: dict[str, tuple[str, ...]] = {}
    unknown: dict[str, tuple[str, ...]] = {}
    unlabelled: list[str] = []
    names: list[str] = []
    if SEVERAL in columns:
        for line, row in rows.items():
            words = tuple(filter(None, (word.strip() for word in row[SEVERAL].split("|"))))
            labels[_read_file(path, line, row, labels)] = words
    elif one is not None:
        for line, row in rows.items():
            file = _read_file(path, line, row, labels)
            if row[one]:
                labels[file] = (row[one],)
            else:
                unlabelled.append(file)
    else:
        names = _find_class_columns(path, [c for c in columns if c not in (FILE, group)], rows)
        for line, row in rows.items():
            file = _read_file(path, line, row, labels)
            truths = {name: _read_truth(path, line, row, titles, name) for name in names}
            gaps = tuple(titles[name] for name in names if truths[name] is None)
            if len(gaps) == len(names):
                unlabelled.append(file)
                continue
            labels[file] = tuple(titles[name] for name in names if truths[name])
            if gaps:
                unknown[file] = gaps
        if len(names) == 1:  # one class and its absence
            absent = f"not {titles[names[0]]}"
            labels = {file: words or (absent,) for file, words in labels.items()}
            titles[absent], is_multiple = absent, False
            names = [absent, *names]
    classes = sort_classes({word for words in labels.values() for word in words})
    if names:
        classes = tuple(titles[name] for name in names)
    groups = None
    if group is not None:
        groups = {row[FILE]: row[group] for row in rows.values()}
        lines = [line for line, row in rows.items() if row[FILE] in labels and not row[group]]
        if lines:
            raise ImagesError(
                f"{path} line {lines[0]}: expected a {group}, got nothing ({len(lines)} of "
                f"{len(labels)} labelled images have none); fill the column in"
            )
    used = {FILE, group, one, *names} if SEVERAL not in columns else {FILE, group, SEVERAL}
    unused = tuple(titles[name] for name in columns if name and name not in used)
    return LabelRows(
        path,
        classes,
        labels,
        groups,
        is_multiple,
        unused,
        unknown,
        tuple(file for file in dict.fromkeys(unlabelled) if file not in labels),
        has_columns=bool(names),
    )


def match_files(files: Collection[str], table: Path, source: ImageSource) -> dict[int, list[str]]:
    """Return the files of a table that name each image, by the index of the image.

    A file is a path relative to the images, to the folder around them or to that of the table, or
    an absolute one, with either kind of slash. Where no file of the table is such a path, those
    without a folder name the image that is called so in any folder, if there is only one; and if
    none is, these are names without their suffix.

    Args:
        files: the files that the table names.
        table: where the table lies.
        source: the images.

    Returns:
        The files of each image that has any, in the order of the images.
    """
    folder = source.path if isinstance(source, FolderImages) else None
    written = {file.replace("\\", "/"): file for file in files} | {file: file for file in files}
    matched: dict[int, list[str]] = {}
    for index, name in enumerate(source.names):
        paths = _list_paths(name, folder, table.parent)
        if found := [written[path] for path in paths if path in written]:
            matched[index] = list(dict.fromkeys(found))
    bare = {file for file in files if not {"/", "\\"} & set(file)}
    for part in ("name", "stem"):
        matched = matched or _match_ends(bare, source.names, part)
    return matched


def find_own_table(images: str | Path | ImageSource) -> Path | None:
    """Return `labels.csv` of a folder where it must be read here; else None.

    It gives several classes per image, or leaves the label of some images empty.

    Raises:
        ImagesError: the table cannot be read.
    """
    if isinstance(images, ImageSource):
        return None
    check_path("images", images)
    own = Path(images) / LABELS_FILE
    if is_file(own) and (holds_several(own) or has_empty_labels(own)):
        return own
    return None


def name_images(images: str | Path | ImageSource) -> str | Path | ImageSource:
    """Return the name of images that opens a folder with any table of labels."""
    own = find_own_table(images)
    return images if own is None else own.parent / EVERYTHING


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return names of classes in the order of their indices, or of the alphabet.

    >>> sort_classes(["10", "9"]), sort_classes(["star", "galaxy"])
    (('9', '10'), ('galaxy', 'star'))
    """
    each = list(names)
    if all(name.isdecimal() for name in each):
        return tuple(sorted(each, key=int))
    return tuple(sorted(each))


def _read_cells(path: Path) -> tuple[dict[str, str], dict[int, dict[str, str]]]:
    """Return the columns in lower case with their titles, and the cells of each line."""
    names, numbered = _read_rows(path)
    columns = [name.lower() for name in names]
    titles = dict(zip(columns, names, strict=True))
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise ImagesError(f"{path}: the column {twice} is there twice, expected once")
    padding = [""] * len(columns)
    rows = {
        line: {
            name: unescape_cell(cell.strip())
            for name, cell in zip(columns, cells + padding, strict=False)
        }
        for line, cells in numbered
    }
    for row in rows.values():
        if FILE in row:
            row[FILE] = row[FILE].removeprefix("./")
    return titles, rows


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the cells of each line or row with its number."""
    if has_suffix(path.name, TABLES):
        table = read_catalogue(path)
        return list(table.columns), list(enumerate(table.format_rows(), 1))
    try:
        with open_csv(path) as lines:
            names = [name.strip() for name in next(lines, [])]
            return names, [(lines.line_num, cells) for cells in lines if cells]
    except FileNotFoundError:
        raise ImagesError(f"{path}: no such table of labels") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise ImagesError(describe_csv_error(path, error)) from error


def _require_column(path: Path, name: str, columns: Sequence[str]) -> None:
    if name not in columns:
        raise ImagesError(
            f"{path}: expected a column {name}, got {', '.join(columns) or 'an empty file'}"
            f"{suggest_nearest(name, columns)}"
        )


def _read_file(
    path: Path, line: int, row: Mapping[str, str], labels: Mapping[str, tuple[str, ...]]
) -> str:
    """Return the file of a row; raises ImagesError where it is missing or listed twice."""
    file = row[FILE]
    if not file:
        raise ImagesError(f"{path} line {line}: expected a file, got nothing")
    if file in labels:
        raise ImagesError(f"{path} line {line}: {file} is listed twice, expected once")
    return file


def _find_class_columns(
    path: Path, columns: Sequence[str], rows: Mapping[int, Mapping[str, str]]
) -> list[str]:
    """Return the columns of 0 and 1; raises ImagesError where there are none."""
    classes = [name for name in columns if is_class_column(row[name] for row in rows.values())]
    if not classes:
        raise ImagesError(
            f"{path}: expected a column of labels ({', '.join(LABEL_COLUMNS)}; {SEVERAL} for "
            "several with | between them; or a column of 0 and 1 for each class), got "
            f"{', '.join(_show_column(name, rows.values()) for name in columns) or 'none'}"
        )
    return classes


def _show_column(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Return the name of a column and its first cells that differ."""
    cells = list(dict.fromkeys(row[name][:20] for row in rows))[:2]
    return f"{name} ({', '.join(cells)})"


def _read_truth(
    path: Path, line: int, row: Mapping[str, str], titles: Mapping[str, str], name: str
) -> bool | None:
    """Return whether an image has the class of a column, None where nobody knows.

    Raises:
        ImagesError: the cell says something else.
    """
    if is_unknown(row[name]):
        return None
    truth = TRUTHS.get(row[name].lower())
    if truth is None:
        raise ImagesError(
            f"{path} line {line}: expected 0 or 1 in the column {titles[name]}, got "
            f"{row[name][:80]}; leave the cell empty where nobody knows, or take the column out if "
            "it is no class"
        )
    return truth


def _list_paths(name: str, folder: Path | None, table: Path) -> list[str]:
    """Return all paths by which a table may name an image."""
    plain = name.rpartition("#")[0] or name
    if folder is None:
        return [name, plain]
    inside = folder / plain
    beside = PurePosixPath(os.path.relpath(inside, table)).as_posix()
    absolute = (inside.absolute().as_posix(), inside.resolve().as_posix())
    return [name, plain, beside, f"{folder.name}/{plain}", *absolute]


def _match_ends(files: Collection[str], names: Collection[str], part: str) -> dict[int, list[str]]:
    """Match the last part of the images' paths (`name`), or that without its suffix (`stem`)."""
    ends = [getattr(PurePosixPath(name.rpartition("#")[0] or name), part) for name in names]
    counts = Counter(ends)
    return {index: [end] for index, end in enumerate(ends) if counts[end] == 1 and end in files}
