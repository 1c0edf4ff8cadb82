"""Row groups of a Parquet file, read when asked for, a bounded number of bytes kept."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, TypeAlias

from apercu.errors import ImagesError

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
