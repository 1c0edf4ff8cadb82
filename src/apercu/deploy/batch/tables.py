"""Rows of Parquet files with pictures, on a disk or behind a URL; no name is held."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from typing import Any, NamedTuple, final

from apercu.deploy.batch.dataset import DataSet
from apercu.deploy.batch.places import Place, patiently
from apercu.errors import ImageError, ImagesError, UnreachableError
from apercu.images.parquet import image_column
from apercu.images.reader import read_picture
from apercu.images.row_groups import RowGroups, Table
from apercu.types import Picture

OPEN = 2
"""Files whose row groups are kept; threads at the border of two read from both."""


class Footer(NamedTuple):
    """What a file's footer tells: its image column and the first row of each row group."""

    column: str
    starts: tuple[int, ...]


@final
class Tables(DataSet):
    """Rows of one or several Parquet files in Hugging Face's layout, in the order of their names.

    Args:
        place: the files.
        channels: of every picture.

    Raises:
        ImagesError: a file is no Parquet file, or has no column of pictures.
        UnreachableError: the storage does not answer.
    """

    def __init__(self, place: Place, channels: int) -> None:
        self.place = place
        self.channels = channels
        self.footers = [_footer(place, file) for file in place.files]
        self.starts = [0]
        for footer in self.footers:
            self.starts.append(self.starts[-1] + footer.starts[-1])
        if not self.starts[-1]:
            raise ImagesError(f"{place.url}: no images, the tables have no rows")
        self._opened: OrderedDict[int, RowGroups] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self.starts[-1]

    def name_of(self, index: int) -> str:
        file, row = self._find(index)
        return f"row-{row}" if len(self.footers) == 1 else f"{self.place.files[file]}#row-{row}"

    def picture(self, index: int) -> Picture:
        file, row = self._find(index)
        footer = self.footers[file]
        group = bisect_right(footer.starts, row) - 1
        table = self._read(file, group)
        data = table[footer.column][row - footer.starts[group]].as_py()
        data = data.get("bytes") if isinstance(data, dict) else data
        name = self.name_of(index)
        if data is None:
            raise ImageError(f"{name}: expected the picture's bytes, got nothing")
        try:
            return read_picture(data, channels=self.channels)
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def digest(self) -> str:
        sha = hashlib.sha256()
        listed = zip(self.place.files, self.place.sizes, self.footers, strict=True)
        for file, size, footer in listed:
            sha.update(f"{file} {size} {footer.starts[-1]}\n".encode())
        return sha.hexdigest()

    def _find(self, index: int) -> tuple[int, int]:
        """The file that holds an image, and its row there."""
        file = bisect_right(self.starts, index) - 1
        return file, index - self.starts[file]

    def _read(self, file: int, group: int) -> Table:
        try:
            return self._groups(file).read(group)
        except ImagesError as error:
            if self.place.remote and isinstance(error.__cause__, OSError):
                raise UnreachableError(f"{error}; run the same command again") from error
            raise

    def _groups(self, file: int) -> RowGroups:
        with self._lock:
            if file not in self._opened:
                path, columns = self.place.path(self.place.files[file]), self.footers[file].column
                self._opened[file] = RowGroups(path, (columns,), self.place.system)
            self._opened.move_to_end(file)
            while len(self._opened) > OPEN:
                self._opened.popitem(last=False)
            return self._opened[file]


def _footer(place: Place, file: str) -> Footer:
    """What a file says of itself; only its end is read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    def read() -> Any:
        try:
            with ParquetFile(place.path(file), filesystem=place.system) as opened:
                return opened.schema_arrow, opened.metadata
        except pa.ArrowInvalid as error:
            reason = " ".join(str(error).split())
            raise ImagesError(
                f"{place.shown(file)}: not a Parquet file that can be read ({reason})"
            ) from error

    schema, meta = patiently(place.shown(file), read)
    starts = [0]
    for group in range(meta.num_row_groups):
        starts.append(starts[-1] + meta.row_group(group).num_rows)
    return Footer(image_column(place.shown(file), schema), tuple(starts))
