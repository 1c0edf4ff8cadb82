"""Shards as Parquet files."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import final
from uuid import uuid4

from apercu.deploy.batch.shard_writer import COLUMNS, ShardWriter
from apercu.deploy.batch.work_folder import ShardRecord, Table, WorkFolder
from apercu.errors import OutputError
from apercu.io import digest_file

MAPS_FOLDER = "maps"
MIN_ROW_GROUP = 256
"""Smallest number of rows in a row group; they are in memory while a shard is written."""


@final
@dataclass(frozen=True)
class ParquetShards(ShardWriter):
    """Writes each shard as a file, `maps/00000003.parquet`, which is there whole or not at all."""

    def prepare_output(self) -> None:
        try:
            (self.out / MAPS_FOLDER).mkdir(parents=True, exist_ok=True)
            for part in (self.out / MAPS_FOLDER).glob(".*.part"):
                part.unlink()  # of a process that was killed
        except OSError as error:
            raise _describe_failure(self.out / MAPS_FOLDER, error) from error

    def remove_output(self) -> None:
        shutil.rmtree(self.out / MAPS_FOLDER, ignore_errors=True)

    def write_shard(self, shard: int) -> ShardRecord:
        name = f"{MAPS_FOLDER}/{shard:08}.parquet"
        path = self.out / name
        part = path.with_name(f".{path.name}.{uuid4().hex}.part")  # process ids recur on a cluster
        rows = self.plan.rows(shard)
        try:
            errors = self._write_rows(shard, part)
            part.replace(path)
            size = path.stat().st_size
        except OSError as error:
            with contextlib.suppress(OSError):
                part.unlink()
            raise _describe_failure(path, error) from error
        return ShardRecord(
            file=name,
            shard=shard,
            first=rows.start,
            rows=len(rows),
            errors=errors,
            bytes=size,
            sha256=digest_file(path),
        )

    def read_failures(self, record: ShardRecord) -> list[tuple[int, str, str]]:
        import pyarrow.parquet as pq

        table = pq.read_table(self.out / record.file, columns=["index", "id", "error"])
        rows = table.filter(table["error"].is_valid()).to_pylist()
        return [(row["index"], row["id"], row["error"]) for row in rows]

    def _write_rows(self, shard: int, path: Path) -> int:
        """Write the rows of a shard, and return how many of them are errors."""
        import pyarrow.parquet as pq

        schema = self.row_builder.schema
        plain = ["index", "id", "map", "probability"]
        encoded = [name for name in COLUMNS if name not in plain]
        errors = 0
        with path.open("wb") as file:
            with pq.ParquetWriter(
                file, schema, compression="zstd", use_dictionary=encoded
            ) as writer:
                for table in _merge_tables(WorkFolder(self.out).read_units(self.plan, shard)):
                    errors += table.num_rows - table["error"].null_count
                    writer.write_table(table, row_group_size=table.num_rows)
            file.flush()
            os.fsync(file.fileno())
        return errors


def _merge_tables(tables: Iterable[Table]) -> Iterator[Table]:
    """Yield tables with enough rows for a row group; the last one may be smaller."""
    import pyarrow as pa

    waiting: list[Table] = []
    for table in tables:
        waiting.append(table)
        if sum(part.num_rows for part in waiting) >= MIN_ROW_GROUP:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _describe_failure(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"{path}: cannot be written ({error.strerror or error}); free some space or choose "
        "another folder"
    )
