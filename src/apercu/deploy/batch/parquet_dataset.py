"""Data sets of the rows of Parquet files with pictures, on a disk or behind a URL."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, final

from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.remote_files import RemoteFiles, read_with_retries
from apercu.errors import ImageError, ImagesError, UnreachableError
from apercu.images.parquet import RowGroups, Table, find_image_column
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
    """

    column: str
    starts: tuple[int, ...]


@final
class ParquetDataset(Dataset):
    """The rows of Parquet files in Hugging Face's layout, in the order of the files' names.

    No name of a row is kept in memory.

    Args:
        files: the listed files.
        channels: the number of channels of every picture.

    Raises:
        ImagesError: a file is not a Parquet file, or has no column of pictures.
        UnreachableError: the storage does not answer.
    """

    def __init__(self, files: RemoteFiles, channels: int) -> None:
        self.files = files
        self.channels = channels
        self.footers = [_read_footer(files, file) for file in files.paths]
        self.starts = [0]
        for footer in self.footers:
            self.starts.append(self.starts[-1] + footer.starts[-1])
        if not self.starts[-1]:
            raise ImagesError(f"{files.url}: no images, the tables have no rows")
        self._open_files: OrderedDict[int, RowGroups] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.starts[-1]

    def get_name(self, index: int) -> str:
        file, row = self._locate_row(index)
        return f"row-{row}" if len(self.footers) == 1 else f"{self.files.paths[file]}#row-{row}"

    def read_picture(self, index: int) -> Picture:
        file, row = self._locate_row(index)
        footer = self.footers[file]
        group = bisect_right(footer.starts, row) - 1
        table = self._read_row_group(file, group)
        data = table[footer.column][row - footer.starts[group]].as_py()
        data = data.get("bytes") if isinstance(data, dict) else data
        name = self.get_name(index)
        if data is None:
            raise ImageError(f"{name}: expected the picture's bytes, got nothing")
        try:
            return read_picture(data, channels=self.channels)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

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
                path, columns = (
                    self.files.full_path(self.files.paths[file]),
                    self.footers[file].column,
                )
                self._open_files[file] = RowGroups(path, (columns,), self.files.file_system)
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
    return Footer(find_image_column(files.format_name(path), schema), tuple(starts))
