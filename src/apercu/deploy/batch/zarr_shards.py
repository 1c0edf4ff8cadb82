"""Shards as chunks of Zarr arrays, one array per column."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from apercu.deploy.batch.shard_writer import CORNERS, TRUST_COLUMNS, ShardWriter
from apercu.deploy.batch.work_folder import ShardRecord, Table, WorkFolder
from apercu.errors import OutputError
from apercu.extras import require_extra

STORE = "maps.zarr"
FILL_VALUES: dict[str, Any] = {
    "index": 0,
    "id": "",
    "width": 0,
    "height": 0,
    "target": -1,
    "class": "",
    "probability": float("nan"),
    **dict.fromkeys(CORNERS, -1),
    "map": 0,
    "error": "",
}
"""Values of the columns where an image could not be read or its map has no box."""
TRUST_FILL: dict[str, Any] = {
    name: "" if kind == "string" else float("nan") for name, kind in TRUST_COLUMNS.items()
}
"""The same for the columns of a guard, which are there where it judges; NaN where it cannot."""
DTYPES: dict[str, Any] = {
    "index": np.int64,
    "probability": np.float32,
    **{name: str if kind == "string" else np.float32 for name, kind in TRUST_COLUMNS.items()},
    **dict.fromkeys(("id", "class", "error"), str),
}


@final
@dataclass(frozen=True)
class ZarrShards(ShardWriter):
    """Writes `maps.zarr`, version 3, where each shard is one chunk of every array."""

    @property
    def fill_values(self) -> dict[str, Any]:
        """The arrays of the store, and their values where there is nothing."""
        return {**FILL_VALUES, **(TRUST_FILL if self.row_builder.has_guard else {})}

    def prepare_output(self) -> None:
        require_extra("zarr", "format")
        import zarr

        work_folder, path = WorkFolder(self.out), self.out / STORE
        shards = range(self.plan.shard_count)
        try:
            if any(work_folder.read_record(shard) is not None for shard in shards):
                for part in path.rglob("*.partial"):
                    part.unlink()  # of a process that was killed
                return
            shutil.rmtree(path, ignore_errors=True)
            group = zarr.create_group(path, zarr_format=3)
            for name, fill_value in self.fill_values.items():
                shape, chunk = (self.plan.image_count,), (self.plan.shard_size,)
                size = self.row_builder.size if name == "map" else ()
                group.create_array(
                    name,
                    shape=shape + size,
                    chunks=chunk + size,
                    dtype=self._find_dtype(name),
                    fill_value=fill_value,
                    dimension_names=("image", "row", "column")[: 1 + len(size)],
                )
        except OSError as error:
            raise self._describe_failure(error) from error

    def remove_output(self) -> None:
        shutil.rmtree(self.out / STORE, ignore_errors=True)

    def write_shard(self, shard: int) -> ShardRecord:
        import pyarrow as pa
        import zarr

        rows = self.plan.rows(shard)
        table = pa.concat_tables(WorkFolder(self.out).read_units(self.plan, shard))
        try:
            group: Any = zarr.open_group(self.out / STORE, mode="r+")
            for name in self.fill_values:
                group[name][rows.start : rows.stop] = self._build_column(table, name)
            files = self._list_chunks(shard)
            _sync_files(files)
        except OSError as error:
            raise self._describe_failure(error) from error
        sha = hashlib.sha256()
        for file in files:
            sha.update(file.read_bytes())
        return ShardRecord(
            file=STORE,
            shard=shard,
            first=rows.start,
            rows=len(rows),
            errors=table.num_rows - table["error"].null_count,
            bytes=sum(file.stat().st_size for file in files),
            sha256=sha.hexdigest(),
        )

    def read_failures(self, record: ShardRecord) -> list[tuple[int, str, str]]:
        import zarr

        group: Any = zarr.open_group(self.out / STORE, mode="r")
        rows = slice(record.first, record.first + record.rows)
        names, errors = group["id"][rows], group["error"][rows]
        pairs = enumerate(zip(names, errors, strict=True), start=record.first)
        return [(index, str(name), str(error)) for index, (name, error) in pairs if error]

    def _list_chunks(self, shard: int) -> list[Path]:
        """Return the files of a shard, in the order of the columns; a chunk of zeros has none."""
        chunks = {
            name: f"{shard}/0/0" if name == "map" else f"{shard}" for name in self.fill_values
        }
        paths = [self.out / STORE / name / "c" / chunk for name, chunk in chunks.items()]
        return [path for path in paths if path.is_file()]

    def _find_dtype(self, name: str) -> Any:
        if name == "map":
            return np.dtype(self.row_builder.settings.map)
        return DTYPES.get(name, np.int32)

    def _build_column(self, table: Table, name: str) -> NDArray[Any]:
        """Return a column as an array, with fill values where there is nothing."""
        values = table[name].to_pylist()
        if name == "map":
            return _decode_maps(values, self._find_dtype(name), self.row_builder.size)
        filled = [self.fill_values[name] if value is None else value for value in values]
        dtype = self._find_dtype(name)
        return np.array(filled, dtype=np.dtypes.StringDType() if dtype is str else dtype)

    def _describe_failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self.out / STORE}: cannot be written ({error.strerror or error}); free some space "
            "or choose another folder"
        )


def _decode_maps(values: Sequence[bytes | None], dtype: Any, size: tuple[int, int]) -> NDArray[Any]:
    """Decode maps into one array, with zeros where there is none."""
    maps = np.zeros((len(values), *size), dtype)
    for row, value in enumerate(values):
        if value is not None:
            maps[row] = np.frombuffer(value, dtype).reshape(size)
    return maps


def _sync_files(files: Sequence[Path]) -> None:
    """Wait until files are on the disk."""
    for file in files:
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
