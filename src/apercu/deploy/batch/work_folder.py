"""Which images belong together: shards of the result, and units that are explained at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError

from apercu.errors import RunError
from apercu.io import write_file


@dataclass(frozen=True)
class Unit:
    """Images that are explained together: the smallest work that is kept or done again.

    Attributes:
        shard: that they belong to.
        number: in that shard.
        start: the first image.
        stop: one past the last image.
    """

    shard: int
    number: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Plan:
    """Images, cut into shards and units in the order of the source, the same in every attempt.

    Attributes:
        images: how many there are.
        shard: images per shard.
        batch: images per unit.
    """

    image_count: int
    shard_size: int
    batch_size: int

    @property
    def shard_count(self) -> int:
        """How many there are."""
        return -(-self.image_count // self.shard_size)

    def rows(self, shard: int) -> range:
        """The images of a shard.

        >>> Plan(25, 10, 4).rows(2)
        range(20, 25)
        """
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.image_count))

    def split_into_units(self, shard: int) -> Iterator[Unit]:
        """The units of a shard, in order.

        >>> [len(unit) for unit in Plan(25, 10, 4).units(0)]
        [4, 4, 2]
        """
        rows = self.rows(shard)
        for number, start in enumerate(range(rows.start, rows.stop, self.batch_size)):
            yield Unit(shard, number, start, min(start + self.batch_size, rows.stop))


Table: TypeAlias = Any  # pyarrow.Table; pyarrow is imported only when rows are made

WORK_FOLDER = "_work"


class ShardRecord(BaseModel):
    """What is known of a finished shard.

    Attributes:
        file: where it is, relative to the result.
        shard: its number.
        first: index of its first row.
        rows: how many there are.
        errors: rows of images that could not be read.
        bytes: on the disk.
        sha256: of these bytes.
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
    """The folder of what is not finished; a file is there whole, or not at all.

    Attributes:
        out: of the result.
    """

    out: Path

    def has_unit(self, unit: Unit) -> bool:
        """Whether a unit is explained."""
        return self._unit_path(unit).is_file()

    def count_missing(self, plan: Plan, shard: int) -> int:
        """Images of an unfinished shard that are not explained."""
        return sum(len(unit) for unit in plan.split_into_units(shard) if not self.has_unit(unit))

    def write_unit(self, unit: Unit, table: Table) -> None:
        """Keeps the rows of a unit.

        Raises:
            OutputError: the folder cannot be written.
        """
        import pyarrow as pa

        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        write_file(self._unit_path(unit), sink.getvalue().to_pybytes())

    def read_units(self, plan: Plan, shard: int) -> Iterator[Table]:
        """The rows of a shard's units, in order.

        Raises:
            RunError: a file is damaged.
        """
        import pyarrow as pa

        for unit in plan.split_into_units(shard):
            path = self._unit_path(unit)
            try:
                table = pa.ipc.open_file(path.read_bytes()).read_all()
            except (OSError, pa.ArrowException) as error:
                raise RunError(f"{path}: damaged; delete it and run the same again") from error
            if table.num_rows != len(unit):
                raise RunError(
                    f"{path}: expected {len(unit)} rows, got {table.num_rows}; delete it and run "
                    "the same again"
                )
            yield table

    def finish_shard(self, record: ShardRecord) -> None:
        """Keeps a shard's record, and clears its units away.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(self._record_path(record.shard), record.model_dump_json())
        shutil.rmtree(self._shard_folder(record.shard), ignore_errors=True)

    def read_record(self, shard: int) -> ShardRecord | None:
        """What is known of a finished shard; None where it is not.

        Raises:
            RunError: the record is damaged.
        """
        path = self._record_path(shard)
        try:
            return ShardRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise RunError(f"{path}: damaged; delete it and run the same again") from error

    def clear(self) -> None:
        """Everything is finished."""
        shutil.rmtree(self.out / WORK_FOLDER, ignore_errors=True)

    def _record_path(self, shard: int) -> Path:
        return self.out / WORK_FOLDER / f"{shard:08}.json"

    def _shard_folder(self, shard: int) -> Path:
        return self.out / WORK_FOLDER / f"{shard:08}"

    def _unit_path(self, unit: Unit) -> Path:
        return self._shard_folder(unit.shard) / f"{unit.number:06}.arrow"
