"""Data sets of the rows of Parquet files with pictures, on a disk or behind a URL."""

from __future__ import annotations

import hashlib
import posixpath
import threading
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final
from urllib.parse import unquote

from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.remote_files import RemoteFiles, read_with_retries
from apercu.deploy.batch.shard_writer import name_kept_column
from apercu.errors import (
    ConfigError,
    ImageError,
    ImagesError,
    UnreachableError,
    suggest_nearest,
)
from apercu.images.parquet import (
    RowGroups,
    Schema,
    Table,
    find_image_column,
    find_picture,
    outside_error,
    split_cell,
)
from apercu.images.reader import read_picture
from apercu.types import Picture

MAX_OPEN_FILES = 2
"""Number of files whose row groups are kept; threads at the border of two files read from both."""


@dataclass(frozen=True)
class Footer:
    """What the footer of a Parquet file says.

    Attributes:
        column: the name of the column with the images.
        starts: the first row of each row group, and the number of all rows.
        schema: the Arrow schema of the file.
    """

    column: str
    starts: tuple[int, ...]
    schema: Schema


@final
class ParquetDataset(Dataset):
    """The rows of Parquet files in Hugging Face's layout, in the order of the files' names.

    No name of a row is kept in memory.

    Args:
        files: the listed files.
        channels: the number of channels of every picture.
        keep: the columns that are kept beside the result: columns of the files, fields of structs
            (`image.path`), or keys of folders (`split` of `split=train/0.parquet`).

    Raises:
        ImagesError: a file is not a Parquet file, or has no column of pictures.
        ConfigError: a file has no column that shall be kept, or one of another type.
        UnreachableError: the storage does not answer.
    """

    def __init__(self, files: RemoteFiles, channels: int, keep: tuple[str, ...] = ()) -> None:
        self.files = files
        self.channels = channels
        self.footers = [_read_footer(files, file) for file in files.paths]
        self.starts = [0]
        for footer in self.footers:
            self.starts.append(self.starts[-1] + footer.starts[-1])
        if not self.starts[-1]:
            raise ImagesError(f"{files.url}: no images, the tables have no rows")
        self._kept = _find_kept_columns(files, self.footers, keep)
        self._open_files: OrderedDict[int, RowGroups] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.starts[-1]

    def get_name(self, index: int) -> str:
        file, row = self._locate_row(index)
        return f"row-{row}" if len(self.footers) == 1 else f"{self.files.paths[file]}#row-{row}"

    def read_picture(self, index: int) -> Picture:
        file, row = self._locate_row(index)
        cell = self._read_cell(file, row, self.footers[file].column)
        name = self.get_name(index)
        try:
            return read_picture(self._find_content(cell, file), channels=self.channels)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def read_values(self, index: int) -> dict[str, Any]:
        if not self._kept:
            return {}
        file, row = self._locate_row(index)
        schema, keys = self.footers[file].schema, _read_folder_keys(self.files.paths[file])
        return {
            column.name: keys[column.name]
            if _find_type(schema, column.name) is None
            else self._read_cell(file, row, column.name)
            for column in self._kept
        }

    @property
    def kept_columns(self) -> tuple[Any, ...]:
        return self._kept

    def compute_digest(self) -> str:
        sha = hashlib.sha256()
        listed = zip(self.files.paths, self.files.sizes, self.footers, strict=True)
        for path, size, footer in listed:
            sha.update(f"{path} {size} {footer.starts[-1]}\n".encode())
        return sha.hexdigest()

    def _locate_row(self, index: int) -> tuple[int, int]:
        """Return the index of the file that holds an image, and its row there."""
        file = bisect_right(self.starts, index) - 1
        return file, index - self.starts[file]

    def _read_cell(self, file: int, row: int, name: str) -> Any:
        """Return the value of a column, or of a field in a struct, in one row."""
        footer = self.footers[file]
        group = bisect_right(footer.starts, row) - 1
        column, *fields = _split_name(footer.schema, name)
        cell = self._read_row_group(file, group)[column][row - footer.starts[group]]
        for field in fields:
            if not cell.is_valid:
                return None
            cell = cell[field]
        return cell.as_py()

    def _find_content(self, cell: Any, file: int) -> bytes | Path:
        """Return the bytes of a picture, or its path on this machine."""
        path = self.files.paths[file]
        if not self.files.is_remote:
            return find_picture(cell, Path(self.files.full_path(path)).parent)
        data, picture = split_cell(cell)
        if data is None and picture is not None:
            folder = posixpath.dirname(path)
            target = posixpath.normpath(posixpath.join(folder, picture))
            inside = f"{target}/".startswith(f"{folder}/" if folder else "")
            if not inside or target.startswith(("/", "../")):
                raise outside_error(picture, self.files.format_name(folder))
            return self.files.read_file(target)
        return find_picture(cell, Path())

    def _read_row_group(self, file: int, group: int) -> Table:
        try:
            return self._open_row_groups(file).read(group)
        except ImagesError as error:
            if self.files.is_remote and isinstance(error.__cause__, OSError):
                raise UnreachableError(f"{error}; run the same command again") from error
            raise

    def _open_row_groups(self, file: int) -> RowGroups:
        with self._lock:
            if file not in self._open_files:
                path, footer = self.files.full_path(self.files.paths[file]), self.footers[file]
                kept = (_split_name(footer.schema, column.name)[0] for column in self._kept)
                names = dict.fromkeys(
                    (footer.column, *(name for name in kept if name in footer.schema.names))
                )
                self._open_files[file] = RowGroups(path, tuple(names), self.files.file_system)
            self._open_files.move_to_end(file)
            while len(self._open_files) > MAX_OPEN_FILES:
                self._open_files.popitem(last=False)
            return self._open_files[file]


def _read_footer(files: RemoteFiles, path: str) -> Footer:
    """Read the footer of a Parquet file; only the end of the file is read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    def read() -> Any:
        try:
            with ParquetFile(files.full_path(path), filesystem=files.file_system) as opened:
                return opened.schema_arrow, opened.metadata
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise ImagesError(
                f"{files.format_name(path)}: not a Parquet file that can be read ({reason})"
            ) from error

    schema, metadata = read_with_retries(files.format_name(path), read)
    starts = [0]
    for group in range(metadata.num_row_groups):
        starts.append(starts[-1] + metadata.row_group(group).num_rows)
    return Footer(find_image_column(files.format_name(path), schema), tuple(starts), schema)


def _find_kept_columns(
    files: RemoteFiles, footers: Sequence[Footer], keep: Sequence[str]
) -> tuple[Any, ...]:
    """Return the Arrow fields of the columns that are kept; raises ConfigError if one is missing.

    Dictionaries become the values that they stand for.
    """
    import pyarrow as pa

    columns: list[Any] = []
    for name in dict.fromkeys(keep):
        types: dict[Any, str] = {}
        for path, footer in zip(files.paths, footers, strict=True):
            data_type = _find_type(footer.schema, name)
            if data_type is None and name in _read_folder_keys(path):
                data_type = pa.string()
            if data_type is None:
                names = ", ".join(column for column in footer.schema.names)
                raise ConfigError(
                    f"keep: {files.format_name(path)} has no column {name!r}, but {names}"
                    f"{suggest_nearest(name, footer.schema.names)}"
                )
            types.setdefault(data_type, path)
        if len(types) > 1:
            kinds = " and ".join(f"{kind} in {path}" for kind, path in list(types.items())[:2])
            raise ConfigError(f"keep: {name} is {kinds}; write it as one type, or leave it out")
        columns.append(pa.field(name, next(iter(types))))
    for name, count in Counter(name_kept_column(column.name) for column in columns).items():
        if count > 1:
            raise ConfigError(f"keep: two columns would be called {name} in the result; keep one")
    return tuple(columns)


def _find_type(schema: Schema, name: str) -> Any:
    """Return the Arrow type of a column or of a field in a struct; None if there is none."""
    from pyarrow import types

    first, *fields = _split_name(schema, name)
    if first not in schema.names:
        return None
    data_type = schema.field(first).type
    for field in fields:
        if not types.is_struct(data_type) or data_type.get_field_index(field) < 0:
            return None
        data_type = data_type.field(field).type
    return data_type.value_type if types.is_dictionary(data_type) else data_type


def _split_name(schema: Schema, name: str) -> list[str]:
    """Return a column, and the fields of structs below it, by the name that was typed."""
    return [name] if name in schema.names else name.split(".")


def _read_folder_keys(path: str) -> dict[str, str]:
    """Return the keys in the folders of a path, as Hive writes them.

    >>> _read_folder_keys("split=train/year=2024/0.parquet")
    {'split': 'train', 'year': '2024'}
    """
    pairs = [folder.partition("=") for folder in path.split("/")[:-1]]
    return {key: unquote(value) for key, separator, value in pairs if separator}
