"""Units of work, and the folder that keeps the finished ones until their shard is complete."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from apercu.errors import RunError
from apercu.io import write_file

Table: TypeAlias = Any  # pyarrow.Table; pyarrow is imported only when rows are built
WORK_FOLDER = "_work"


@dataclass(frozen=True)
class Unit:
    """Images that are explained together: the smallest work that is kept or done again.

    Attributes:
        shard: the number of their shard.
        number: the number of the unit in that shard.
        start: the index of the first image.
        stop: the index after the last image.
    """

    shard: int
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """How images are divided into shards and units, in their order; the same in every attempt.

    Attributes:
        image_count: the number of images.
        shard_size: the number of images per shard.
        batch_size: the number of images per unit.
    """

    image_count: int
    shard_size: int
    batch_size: int

    @property
    def shard_count(self) -> int:
        """The number of shards."""
        return -(-self.image_count // self.shard_size)

    def rows(self, shard: int) -> range:
        """Return the indices of the images of a shard.

        >>> Plan(25, 10, 4).rows(2)
        range(20, 25)
        """
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.image_count))

    def split_into_units(self, shard: int) -> Iterator[Unit]:
        """Yield the units of a shard, in order.

        >>> [len(unit) for unit in Plan(25, 10, 4).split_into_units(0)]
        [4, 4, 2]
        """
        rows = self.rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, self.batch_size)):
            yield Unit(shard, number, start, min(start + self.batch_size, rows.stop))


class ShardRecord(BaseModel):
    """The record of a finished shard.

    Attributes:
        file: the path of the shard, relative to the folder of the result.
        shard: the number of the shard.
        first: the index of the first row.
        rows: the number of rows.
        errors: the number of images that could not be read.
        bytes: the number of bytes on the disk.
        sha256: the digest of these bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    file: str
    shard: int
    first: int
    rows: int
    errors: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class WorkFolder:
    """The folder of unfinished work; each file is there whole, or not at all.

    Attributes:
        out: the folder of the result.
    """

    out: Path

    def has_unit(self, unit: Unit) -> bool:
        """Return whether a unit is explained."""
        return self._unit_path(unit).is_file()

    def count_missing(self, plan: Plan, shard: int) -> int:
        """Return the number of images of an unfinished shard that are not explained."""
        return sum(len(unit) for unit in plan.split_into_units(shard) if not self.has_unit(unit))

    def write_unit(self, unit: Unit, table: Table) -> None:
        """Write the rows of a unit.

        Raises:
            OutputError: the folder cannot be written.
        """
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_file(self._unit_path(unit), sink.getvalue().to_pybytes())

    def read_units(self, plan: Plan, shard: int) -> Iterator[Table]:
        """Yield the rows of each unit of a shard, in order.

        Raises:
            RunError: a file is damaged.
        """
        import pyarrow as pa

        for unit in plan.split_into_units(shard):
            path = self._unit_path(unit)
            try:
                table = pa.ipc.open_file(path.read_bytes()).read_all()
            except (OSError, ValueError, pa.ArrowException) as error:
                raise RunError(
                    f"{path}: damaged; delete it and run the same command again"
                ) from error
            if table.num_rows != len(unit):
                raise RunError(
                    f"{path}: expected {len(unit)} rows, got {table.num_rows}; delete it and run "
                    "the same command again"
                )
            yield table

    def finish_shard(self, record: ShardRecord) -> None:
        """Write the record of a shard, and remove its units.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(self._record_path(record.shard), record.model_dump_json())
        shutil.rmtree(self._shard_folder(record.shard), ignore_errors=True)

    def read_record(self, shard: int) -> ShardRecord | None:
        """Read the record of a shard; None if the shard is not finished.

        Raises:
            RunError: the record is damaged.
        """
        path = self._record_path(shard)
        try:
            return ShardRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise RunError(f"{path}: damaged; delete it and run the same command again") from error

    def clear(self) -> None:
        """Remove the folder, once everything is finished."""
        shutil.rmtree(self.out / WORK_FOLDER, ignore_errors=True)

    def _record_path(self, shard: int) -> Path:
        return self.out / WORK_FOLDER / f"{shard:08}.json"

    def _shard_folder(self, shard: int) -> Path:
        return self.out / WORK_FOLDER / f"{shard:08}"

    def _unit_path(self, unit: Unit) -> Path:
        return self._shard_folder(unit.shard) / f"{unit.number:06}.arrow"
