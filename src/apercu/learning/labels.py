"""Tables of labels: one class per image, or several, and the group of each."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from apercu.errors import ImagesError, suggest_nearest
from apercu.images import ImageSource
from apercu.images.catalogue.table import READERS, read_catalogue
from apercu.images.folder import FolderImages, list_files
from apercu.images.formats.csv_table import describe_csv_error, fill_cells, list_names, open_csv
from apercu.images.label_tables import (
    LABEL_COLUMNS,
    LABELS_FILE,
    SEVERAL,
    TRUTHS,
    has_empty_labels,
    holds_several,
    is_class_column,
    is_unknown,
    write_whole_numbers,
)
from apercu.images.listing import EVERYTHING
from apercu.images.names import has_suffix, match_names
from apercu.images.source import ChosenImages
from apercu.io import check_path, is_file, is_folder, unescape_cell

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

        See `match_names` for how files are named.

        Raises:
            ImagesError: no image is in the table, or one is there under two names with two labels.
        """
        matched: dict[int, str] = {}
        folder, stack = _find_place(source)
        matched_files = match_names(source.names, self.labels, self.path.parent, folder, stack)
        for index, files in matched_files.items():
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

    def name_labelled(
        self, source: ImageSource, matched: Mapping[int, str]
    ) -> tuple[str, ...] | None:
        """Return what each label is of: a file, or one of its pages, as in `scan.tif#2`.

        Args:
            source: the images.
            matched: the file in this table of each image, by the index of the image.

        Returns:
            A file, or the name of an image; None where images are no files of a folder.
        """
        files, names = list_files(source), source.names
        if files is None:
            return None
        labelled = []
        for index, row in matched.items():
            page = names[index].removeprefix(files[index])
            labelled.append(names[index] if page and row.endswith(page) else files[index])
        return tuple(labelled)

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
    table = _read_table(path)
    group = None if group is None else group.strip().lower()
    if group is not None and group not in table.titles:
        raise ImagesError(
            f"{path}: expected a column {group}, got {list_names([*table.titles])}"
            f"{suggest_nearest(group, table.titles)}"
        )
    one = next((name for name in LABEL_COLUMNS if name in table.titles and name != group), None)
    for name in filter(None, (one, group)):
        write_whole_numbers([*table.rows.values()], name)
    if SEVERAL in table.titles:
        found = _read_several(table)
    elif one is not None:
        found = _read_one(table, one)
    else:
        found = _read_truths(table, [name for name in table.titles if name not in (FILE, group)])
    used = {FILE, group, *found.columns}
    return LabelRows(
        path,
        found.classes or sort_classes({word for words in found.labels.values() for word in words}),
        found.labels,
        None if group is None else _read_groups(table, group, found.labels),
        found.is_multiple,
        tuple(title for name, title in table.titles.items() if name and name not in used),
        found.unknown,
        tuple(file for file in dict.fromkeys(found.unlabelled) if file not in found.labels),
        has_columns=found.has_columns,
    )


def _find_place(source: ImageSource) -> tuple[Path | None, Path | None]:
    """Return the folder that holds images as files, and the file that holds them all."""
    while isinstance(source, ChosenImages):
        source = source.source
    if isinstance(source, FolderImages):
        return source.path, None
    return None, Path(source.name) if is_file(Path(source.name)) else None


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


def name_images(
    images: str | Path | ImageSource, labels: str | Path | None = None
) -> str | Path | ImageSource:
    """Return the name of images that opens a folder with any table of labels.

    Args:
        images: images by their name, or opened already.
        labels: a table that lies elsewhere; then folders below the images are no classes.

    Returns:
        The name that opens all images of a folder, where a table gives them labels.
    """
    if labels is not None and not isinstance(images, ImageSource):
        check_path("images", images)
        return Path(images) / EVERYTHING if is_folder(Path(images)) else images
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


@dataclass(frozen=True, eq=False)
class _LabelCells:
    """The cells of a table.

    Attributes:
        path: the table.
        titles: title of each column, by its name in lower case.
        rows: cells of each line by the names of the columns.
    """

    path: Path
    titles: Mapping[str, str]
    rows: Mapping[int, dict[str, str]]

    def read_file(self, line: int, earlier: Collection[str]) -> str:
        """Return the file of a row; raises ImagesError where it is missing or listed twice."""
        file = self.rows[line][FILE]
        if not file:
            raise ImagesError(f"{self.path} line {line}: expected a file, got nothing")
        if file in earlier:
            raise ImagesError(f"{self.path} line {line}: {file} is listed twice, expected once")
        return file

    def read_truth(self, line: int, column: str) -> bool | None:
        """Return whether an image has a class, None where nobody knows; or raise ImagesError."""
        cell = self.rows[line][column]
        if is_unknown(cell):
            return None
        truth = TRUTHS.get(cell.lower())
        if truth is None:
            raise ImagesError(
                f"{self.path} line {line}: expected 0 or 1 in the column {self.titles[column]}, "
                f"got {cell[:80]}; leave the cell empty where nobody knows, or take the column out "
                "if it is no class"
            )
        return truth


@dataclass(eq=False)
class _FoundLabels:
    """The labels that the rows of a table give; see `LabelRows`.

    Attributes:
        columns: names of the columns that hold them.
        classes: names of the classes; empty for those that occur.
    """

    columns: Sequence[str]
    is_multiple: bool
    classes: tuple[str, ...] = ()
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unknown: dict[str, tuple[str, ...]] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    has_columns: bool = False


def _read_several(table: _LabelCells) -> _FoundLabels:
    """Read a column of several classes with `|` between them."""
    found = _FoundLabels((SEVERAL,), is_multiple=True)
    for line, row in table.rows.items():
        words = tuple(filter(None, (word.strip() for word in row[SEVERAL].split("|"))))
        found.labels[table.read_file(line, found.labels)] = words
    return found


def _read_one(table: _LabelCells, column: str) -> _FoundLabels:
    """Read a column of one class per image; of an empty cell the image is not labelled."""
    found = _FoundLabels((column,), is_multiple=False)
    for line, row in table.rows.items():
        file = table.read_file(line, found.labels)
        if row[column]:
            found.labels[file] = (row[column],)
        else:
            found.unlabelled.append(file)
    return found


def _read_truths(table: _LabelCells, columns: Sequence[str]) -> _FoundLabels:
    """Read a column of 0 and 1 for each class; a single one gives a class and its absence."""
    names = _find_class_columns(table, columns)
    titles = [table.titles[name] for name in names]
    found = _FoundLabels(names, is_multiple=True, classes=tuple(titles), has_columns=True)
    for line in table.rows:
        file = table.read_file(line, found.labels)
        truths = {table.titles[name]: table.read_truth(line, name) for name in names}
        gaps = tuple(title for title, truth in truths.items() if truth is None)
        if len(gaps) == len(names):
            found.unlabelled.append(file)
            continue
        found.labels[file] = tuple(title for title, truth in truths.items() if truth)
        if gaps:
            found.unknown[file] = gaps
    if len(names) == 1:
        absent = f"not {titles[0]}"
        found.labels = {file: words or (absent,) for file, words in found.labels.items()}
        found.classes, found.is_multiple = (absent, titles[0]), False
    return found


def _read_groups(table: _LabelCells, group: str, labels: Mapping[str, object]) -> dict[str, str]:
    """Return the group of each file; raises ImagesError for a labelled one without."""
    lines = [line for line, row in table.rows.items() if row[FILE] in labels and not row[group]]
    if lines:
        raise ImagesError(
            f"{table.path} line {lines[0]}: expected a {group}, got nothing ({len(lines)} of "
            f"{len(labels)} labelled images have none); fill the column in"
        )
    return {row[FILE]: row[group] for row in table.rows.values()}


def _read_table(path: Path) -> _LabelCells:
    """Read the cells of a table; raises ImagesError where it has no column of files."""
    names, numbered = _read_rows(path)
    columns = [name.lower() for name in names]
    titles = dict(zip(columns, names, strict=True))
    if twice := next((name for name in columns if name and columns.count(name) > 1), None):
        raise ImagesError(f"{path}: the column {twice} is there twice, expected once")
    if not columns:
        raise ImagesError(f"{path}: expected a column {FILE}, got an empty file")
    if FILE not in columns:
        raise ImagesError(
            f"{path}: expected a column {FILE} with the names of the images, got "
            f"{list_names(names)}; rename the column that holds them"
        )
    rows: dict[int, dict[str, str]] = {}
    for line, cells in numbered:
        pairs = zip(columns, fill_cells(path, line, cells, len(columns)), strict=True)
        rows[line] = {name: unescape_cell(cell.strip()) for name, cell in pairs}
        rows[line][FILE] = rows[line][FILE].removeprefix("./")
    return _LabelCells(path, titles, rows)


def _read_rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """Return the names of the columns, and the cells of each line or row with its number."""
    if has_suffix(path.name, TABLES):
        table = read_catalogue(path)
        return list(table.columns), list(enumerate(table.format_rows(), 1))
    try:
        with open_csv(path) as lines:
            names = [name.strip() for name in next(lines, [])]
            return names, [(lines.line_num, cells) for cells in lines]
    except FileNotFoundError:
        raise ImagesError(f"{path}: no such table of labels") from None
    except (OSError, UnicodeError, csv.Error) as error:
        raise ImagesError(describe_csv_error(path, error)) from error


def _find_class_columns(table: _LabelCells, columns: Sequence[str]) -> list[str]:
    """Return the columns of 0 and 1; raises ImagesError where there are none."""
    rows = table.rows.values()
    classes = [name for name in columns if is_class_column(name, (row[name] for row in rows))]
    if not classes:
        raise ImagesError(
            f"{table.path}: expected a column of labels ({', '.join(LABEL_COLUMNS)}; {SEVERAL} for "
            "several with | between them; or a column of 0 and 1 for each class), got "
            f"{', '.join(_show_column(name, rows) for name in columns) or 'none'}"
        )
    return classes


def _show_column(name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """Return the name of a column and its first cells that differ."""
    cells = list(dict.fromkeys(row[name][:20] for row in rows))[:2]
    return f"{name} ({', '.join(cells)})"
