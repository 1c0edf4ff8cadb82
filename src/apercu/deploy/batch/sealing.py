"""What a format must do: turn the kept rows of a shard into its place in the result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from apercu.deploy.batch.columns import RowBuilder
from apercu.deploy.batch.work_folder import Plan, ShardRecord, WorkFolder


@dataclass(frozen=True)
class ShardWriter(ABC):
    """Writes finished shards; doing it twice leaves the same bytes.

    Attributes:
        out: folder of the result.
        plan: what belongs to each shard.
        columns: of the rows.
    """

    out: Path
    plan: Plan
    columns: RowBuilder

    @abstractmethod
    def prepare_output(self) -> None:
        """Prepares what the shards share, before the first of them.

        Raises:
            OutputError: the folder cannot be written.
        """

    @abstractmethod
    def write_shard(self, shard: int) -> ShardRecord:
        """Writes a shard whose units are all kept.

        Raises:
            OutputError: the folder cannot be written.
            RunError: a kept unit is damaged.
        """

    @abstractmethod
    def read_failures(self, record: ShardRecord) -> list[tuple[int, str, str]]:
        """Index, name and error of the images of a shard that could not be read."""

    def __call__(self, shard: int) -> ShardRecord:
        """Writes a shard, notes that it is finished and clears its units away."""
        desk = WorkFolder(self.out)
        record = self.write_shard(shard)
        desk.finish_shard(record)
        return record
