"""Images in a Parquet file, in the layout of Hugging Face, read one row group at a time."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import accumulate
from math import isnan
from pathlib import Path
from typing import Any, TypeAlias

from apercu.errors import ImageError, ImagesError, suggest_nearest
from apercu.images.formats.csv_table import list_names
from apercu.images.label_tables import write_whole_numbers
from apercu.images.reader import ReadOptions, read_stored
from apercu.images.source import ImageSource, Item, normalise_index
from apercu.io import is_inside, parse_json

Schema: TypeAlias = Any  # pyarrow.Schema; pyarrow is imported only when a Parquet file is opened
Table: TypeAlias = Any  # pyarrow.Table
FileSystem: TypeAlias = Any  # pyarrow.fs.FileSystem

KEPT_BYTES = 64 << 20
"""Bytes of row groups kept in memory for random access; the newest row group is always kept."""

MAX_GROUP_BYTES = 2 << 30
"""Largest size of an unpacked row group."""

_ROWS = 64  # that are unpacked at once
_IMAGE_COLUMNS = ("image", "img")
_PATH_COLUMNS = ("file_name", "filename", "image_path", "filepath", "path")
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class")
_MAX_COLUMNS_SHOWN = 8  # in an error message


@dataclass(frozen=True, eq=False)
class ParquetImages(ImageSource):
    """The rows of a Parquet file as images, with a label if there is a column of labels."""

    path: Path
    starts: tuple[int, ...] = field(repr=False)
    """Index of the first row of each row group, and one past the last row."""
    groups: RowGroups = field(repr=False)
    columns: tuple[str, str | None]
    """Names of the image column and of the label column."""
    classes: tuple[str, ...] | None = field(repr=False)
    channels: int

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.classes

    @property
    def labelled(self) -> bool:
        return self.columns[1] is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(_row_name, range(len(self))))

    def __len__(self) -> int:
        return self.starts[-1]

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        table, row = self._read_row(index)
        image_column, name = self.columns[0], _row_name(index)
        try:
            data = find_picture(table[image_column][row].as_py(), self.path.parent)
            stored = read_stored(data, ReadOptions(self.channels))
        except ImageError as error:
            raise ImageError(f"{self.path} {name}: {error}") from error
        return Item(name, stored.picture, self.label(index), None, None, stored.moves)

    def label(self, index: int) -> str | int | None:
        if (column := self.columns[1]) is None:
            return None
        table, row = self._read_row(normalise_index(index, len(self)))
        return self._read_label(table[column][row].as_py())

    def read_column(self, name: str) -> tuple[str, ...]:
        import pyarrow as pa
        from pyarrow.parquet import read_schema, read_table

        titles = read_schema(self.path).names
        title = next((one for one in titles if one.lower() == name.strip().lower()), None)
        if title is None:
            raise ImagesError(
                f"{self.path}: expected a column {name}, got {list_names(titles)}"
                f"{suggest_nearest(name, titles)}"
            )
        try:
            cells = read_table(self.path, columns=[title])[title].to_pylist()
        except (OSError, pa.ArrowException) as error:
            raise ImagesError(f"{self.path}: column {title} cannot be read ({error})") from error
        is_empty = [cell is None or cell != cell for cell in cells]  # NaN is not itself
        texts = ("" if gap else str(c).strip() for c, gap in zip(cells, is_empty, strict=True))
        rows = [{title: text} for text in texts]
        write_whole_numbers(rows, title)
        return tuple(row[title] for row in rows)

    def _read_row(self, index: int) -> tuple[Any, int]:
        """Return the row group that holds an image, and the row of the image in it."""
        group = bisect_right(self.starts, index) - 1
        return self.groups.read(group), index - self.starts[group]

    def _read_label(self, value: Any) -> str | int | None:
        """Return the class name if the file has names, otherwise the value of the cell."""
        if isinstance(value, int) and self.classes is not None and 0 <= value < len(self.classes):
            return self.classes[value]
        if isinstance(value, float) and not value.is_integer():
            return None if isnan(value) else str(value)
        if isinstance(value, float):  # whole numbers beside empty cells
            return int(value)
        return value if value is None or isinstance(value, (int, str)) else str(value)


def _row_name(row: int) -> str:
    """Return the name of the image in a row."""
    return f"row-{row}"


def open_parquet(path: Path, channels: int) -> ParquetImages:
    """Open a Parquet file by its footer; no picture is read yet.

    Args:
        path: The Parquet file.
        channels: Channels of every picture; grey and RGB are converted.

    Returns:
        The images of the file.

    Raises:
        ImagesError: the file is not a Parquet file, has no rows, or no column of pictures.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            groups = range(metadata.num_row_groups)
            counts = [metadata.row_group(group).num_rows for group in groups]
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ImagesError(f"{path}: not a Parquet file that can be read ({reason})") from error
    starts = [0, *accumulate(counts)]
    if not starts[-1]:
        raise ImagesError(f"{path}: no images, the table has no rows")
    image, label = find_image_column(path, schema), _find_label_column(schema)
    columns = (image,) if label is None else (image, label)
    classes = None if label is None else _read_class_names(schema, label)
    return ParquetImages(
        path, tuple(starts), RowGroups(path, columns), (image, label), classes, channels
    )


def find_image_column(path: str | Path, schema: Schema) -> str:
    """Return the name of the column of pictures; raises ImagesError if there is none.

    It is called `image` or `img`, or the schema says that it holds pictures, or it is the only
    column of structs with bytes in them, or the only one of bytes, or one of paths, which is called
    `file_name` (as in the metadata of Hugging Face), `image_path` or the like.
    """
    pictures = [name for name in schema.names if _holds_pictures(schema.field(name).type)]
    structs = [name for name in pictures if _holds_struct_of_bytes(schema.field(name).type)]
    binary = [name for name in pictures if _holds_bytes(schema.field(name).type)]
    alone = [each[0] for each in (structs, binary) if len(each) == 1]
    candidates = [*_IMAGE_COLUMNS, *_read_features(schema), *alone, *_PATH_COLUMNS]
    for name in candidates:
        if name in pictures:
            return name
    names = ", ".join(schema.names[:_MAX_COLUMNS_SHOWN])
    more = " …" if len(schema.names) > _MAX_COLUMNS_SHOWN else ""
    raise ImagesError(
        f"{path}: expected a column image of struct<bytes, path>, of bytes or of paths, "
        f"got {names}{more}"
    )


def _read_features(schema: Schema) -> list[str]:
    """Return the columns that hold pictures by the Hugging Face metadata of the schema."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        features = parse_json(text)["info"]["features"] if text else {}
        return [name for name, feature in features.items() if feature.get("_type") == "Image"]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def _holds_pictures(data_type: Any) -> bool:
    """Return whether a column of an Arrow type may hold pictures or their paths."""
    from pyarrow import types

    if types.is_dictionary(data_type):
        return _holds_pictures(data_type.value_type)
    if _is_list(data_type):
        return _holds_bytes(data_type) or _holds_pictures(data_type.value_type)
    if types.is_struct(data_type):
        return _holds_struct_of_bytes(data_type) or data_type.get_field_index("path") >= 0
    return _holds_bytes(data_type) or types.is_string(data_type) or types.is_large_string(data_type)


def _holds_struct_of_bytes(data_type: Any) -> bool:
    """Return whether an Arrow type is a struct with a field of bytes that is called so."""
    from pyarrow import types

    if not types.is_struct(data_type) or data_type.get_field_index("bytes") < 0:
        return False
    return _holds_bytes(data_type.field("bytes").type)


def _holds_bytes(data_type: Any) -> bool:
    """Return whether an Arrow type is one of bytes, or of lists of bytes."""
    from pyarrow import types

    if types.is_dictionary(data_type):
        return _holds_bytes(data_type.value_type)
    if _is_list(data_type):
        return bool(types.is_uint8(data_type.value_type) or types.is_int8(data_type.value_type))
    tests = (
        types.is_binary,
        types.is_large_binary,
        types.is_fixed_size_binary,
        types.is_binary_view,
    )
    return any(test(data_type) for test in tests)


def _is_list(data_type: Any) -> bool:
    from pyarrow import types

    tests = (types.is_list, types.is_large_list, types.is_fixed_size_list)
    return any(test(data_type) for test in tests)


def split_cell(cell: Any) -> tuple[bytes | None, str | None]:
    """Return the bytes of a picture, and its path; None for what the row does not have.

    Args:
        cell: The value of the image column: bytes, a list of the numbers of bytes, a path, a
            dictionary of `bytes` and `path`, or a list with one of these.

    Returns:
        The bytes and the path; each is None where the row does not have it.

    Raises:
        ImageError: it is a list of several pictures, or of what are no bytes.
    """
    if isinstance(cell, list) and not (cell and isinstance(cell[0], int)):
        if len(cell) > 1:
            raise ImageError(f"expected one picture in a row, got {len(cell)}")
        cell = cell[0] if cell else None
    if isinstance(cell, str):
        return None, cell
    path = None
    if isinstance(cell, dict):
        path, cell = cell.get("path"), cell.get("bytes")
    if isinstance(cell, list):
        try:
            cell = bytes(number & 255 for number in cell)
        except TypeError:
            raise ImageError("expected numbers of bytes, got a list with other values") from None
    return (bytes(cell) if cell else None), (str(path) if path else None)


def find_picture(cell: Any, folder: Path) -> bytes | Path:
    """Return the bytes of a picture, or where it is if a row has no more than a path.

    Args:
        cell: The value of the image column, as `split_cell` takes it.
        folder: The folder of the Parquet file, in which the paths of its rows stay.

    Returns:
        The bytes, or the path of a file inside the folder.

    Raises:
        ImageError: there are neither bytes nor a path, or the path leads out of the folder.
    """
    data, path = split_cell(cell)
    if data is not None:
        return data
    if path is None:
        raise ImageError("expected the picture's bytes or its path, got nothing")
    if not is_inside(folder / path, folder):
        raise outside_error(path, folder)
    return (folder / path).resolve()


def outside_error(path: str, folder: str | Path) -> ImageError:
    """Return the error of a row whose path leads out of the folder of its Parquet file."""
    return ImageError(
        f"has no bytes, and its path {path} leads out of {folder}; put the pictures there"
    )


def _find_label_column(schema: Schema) -> str | None:
    """Return the name of the column of labels; None if there is none."""
    return next((name for name in _LABEL_COLUMNS if name in schema.names), None)


def _read_class_names(schema: Schema, label: str) -> tuple[str, ...] | None:
    """Read the class names from the Hugging Face metadata of the schema; None if absent."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        names = parse_json(text)["info"]["features"][label]["names"] if text else None
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


class RowGroups:
    """Row groups of a Parquet file, of which the newest are kept in memory.

    A copy in another process, or from a pickle, starts with no row group in memory.

    Args:
        path: The Parquet file.
        columns: Names of the columns to read.
        filesystem: The file system of the path; None for the local one.
    """

    def __init__(
        self, path: str | Path, columns: tuple[str, ...], filesystem: FileSystem = None
    ) -> None:
        self._path, self._columns, self._filesystem = path, columns, filesystem
        self._reset()

    def __getstate__(self) -> tuple[str | Path, tuple[str, ...], FileSystem]:
        return self._path, self._columns, self._filesystem

    def __setstate__(self, state: tuple[str | Path, tuple[str, ...], FileSystem]) -> None:
        self._path, self._columns, self._filesystem = state
        self._reset()

    def read(self, group: int) -> Table:
        """Return one row group as a table; raises ImagesError if the file cannot be read."""
        if self._process != os.getpid():  # the lock may have been held when the process forked
            self._reset()
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self._read_group(group)
            self._kept.move_to_end(group)
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[group]

    def _reset(self) -> None:
        """Make a new lock, and drop the row groups in memory."""
        self._process, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[int, Table] = OrderedDict()

    def _collect(self, file: Any, group: int) -> Table:
        """Read a row group a few rows at a time; raise ImagesError if it unpacks to too much.

        One picture that is stored once and repeated in many rows takes as many times its bytes.
        """
        import pyarrow as pa

        name, columns = str(self._path), list(self._columns)
        parts, size = [], 0
        for part in file.iter_batches(_ROWS, [group], columns, use_threads=False):
            parts.append(part)
            size += part.nbytes
            if size > MAX_GROUP_BYTES:
                raise ImagesError(
                    f"{name}: row group {group} is too large, expected at most "
                    f"{MAX_GROUP_BYTES >> 30} GiB unpacked; write smaller row groups"
                )
        schema = pa.schema([file.schema_arrow.field(column) for column in columns])
        return pa.Table.from_batches(parts, schema)

    def _read_group(self, group: int) -> Table:
        """Read one row group from the file."""
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self._path, filesystem=self._filesystem) as file:
                return self._collect(file, group)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ImagesError(f"{self._path}: row group {group} is damaged ({reason})") from error
