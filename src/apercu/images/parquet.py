"""Hugging Face's image layout in Parquet, one row group in memory at a time."""

from __future__ import annotations

import json
import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from apercu.errors import ImageError, ImagesError
from apercu.images.reader import read_picture
from apercu.images.source import ImageSource, Item, normalise_index

Schema: TypeAlias = Any  # pyarrow.Schema; pyarrow is imported only when a Parquet file is opened

_IMAGE_COLUMNS = ("image", "img")
_MAX_COLUMNS_SHOWN = 8  # columns that an error line names
_LABEL_COLUMNS = ("label", "labels", "fine_label", "class")


@dataclass(frozen=True, eq=False)
class ParquetImages(ImageSource):
    """Rows of a Parquet file: a picture's bytes, and perhaps a label."""

    path: Path
    starts: tuple[int, ...] = field(repr=False)
    """First row of each row group, and one past the last row."""
    groups: RowGroups = field(repr=False)
    columns: tuple[str, str | None]
    """Names of the image column and the label column."""
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
        group = bisect_right(self.starts, index) - 1
        table, row = self.groups.read(group), index - self.starts[group]
        image_column, label_column = self.columns
        name = _row_name(index)
        data = table[image_column][row].as_py()
        data = data.get("bytes") if isinstance(data, dict) else data
        if data is None:
            raise ImageError(f"{self.path} {name}: expected the picture's bytes, got nothing")
        try:
            picture = read_picture(data, channels=self.channels)
        except ImageError as error:
            raise ImageError(f"{self.path} {name}: {error}") from error
        label = None if label_column is None else self._read_label(table[label_column][row].as_py())
        return Item(name, picture, label, None, None)

    def _read_label(self, value: Any) -> str | int | None:
        """The class name where the file tells it, else what is written."""
        if isinstance(value, int) and self.classes is not None and 0 <= value < len(self.classes):
            return self.classes[value]
        return value if value is None or isinstance(value, (int, str)) else str(value)


def _row_name(row: int) -> str:
    return f"row-{row}"


def open_parquet(path: Path, channels: int) -> ParquetImages:
    """Opens a Parquet file by its footer; no picture is read yet.

    Raises ImagesError for what is no Parquet file, has no rows, or no column of pictures.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            schema, meta = file.schema_arrow, file.metadata
            rows = [meta.row_group(group).num_rows for group in range(meta.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise ImagesError(f"{path}: not a Parquet file that can be read ({reason})") from error
    starts = [0]
    for count in rows:
        starts.append(starts[-1] + count)
    if not starts[-1]:
        raise ImagesError(f"{path}: no images, the table has no rows")
    image, label = find_image_column(path, schema), _find_label_column(schema)
    columns = (image,) if label is None else (image, label)
    classes = None if label is None else _read_class_names(schema, label)
    return ParquetImages(
        path, tuple(starts), RowGroups(path, columns), (image, label), classes, channels
    )


def find_image_column(path: str | Path, schema: Schema) -> str:
    """The column of pictures; raises ImagesError where there is none."""
    for name in _IMAGE_COLUMNS:
        if name in schema.names:
            kind = str(schema.field(name).type)
            if kind in {"binary", "large_binary"} or kind.startswith("struct<bytes: "):
                return name
    raise ImagesError(
        f"{path}: expected a column image of struct<bytes, path> or binary, "
        f"got {', '.join(schema.names[:_MAX_COLUMNS_SHOWN])}{' …' * (len(schema.names) > _MAX_COLUMNS_SHOWN)}"
    )


def _find_label_column(schema: Schema) -> str | None:
    return next((name for name in _LABEL_COLUMNS if name in schema.names), None)


def _read_class_names(schema: Schema, label: str) -> tuple[str, ...] | None:
    """Names from the schema's Hugging Face metadata; None where there are none."""
    text = (schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(text)["info"]["features"][label]["names"] if text else None
    except (ValueError, KeyError, TypeError):
        return None
    return tuple(str(name) for name in names) if isinstance(names, list) else None


Table: TypeAlias = Any  # pyarrow.Table; pyarrow is imported only when a Parquet file is read
FileSystem: TypeAlias = Any  # pyarrow.fs.FileSystem

KEPT_BYTES = 64 << 20
"""Compressed pictures kept for random access; the newest row group always stays."""


class RowGroups:
    """Row groups of a file, the newest ones kept; each process and pickle starts with none.

    Args:
        path: of the file.
        columns: that are read.
        place: the file system that it lies on; this machine's where None.
    """

    def __init__(
        self, path: str | Path, columns: tuple[str, ...], filesystem: FileSystem = None
    ) -> None:
        self._path, self._columns, self._place = path, columns, filesystem
        self._reset()

    def __getstate__(self) -> tuple[str | Path, tuple[str, ...], FileSystem]:
        return self._path, self._columns, self._place

    def __setstate__(self, state: tuple[str | Path, tuple[str, ...], FileSystem]) -> None:
        self._path, self._columns, self._place = state
        self._reset()

    def read(self, group: int) -> Table:
        """Raises ImagesError when the file cannot be read any more."""
        if self._process != os.getpid():  # the lock may have been held when the process forked
            self._reset()
        with self._lock:
            if group not in self._kept:
                self._kept[group] = self._load(group)
            self._kept.move_to_end(group)
            while len(self._kept) > 1 and sum(t.nbytes for t in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
            return self._kept[group]

    def _reset(self) -> None:
        self._process, self._lock = os.getpid(), threading.Lock()
        self._kept: OrderedDict[int, Table] = OrderedDict()

    def _load(self, group: int) -> Table:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            with ParquetFile(self._path, filesystem=self._place) as file:
                return file.read_row_group(group, columns=self._columns, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise ImagesError(f"{self._path}: row group {group} is damaged ({reason})") from error
