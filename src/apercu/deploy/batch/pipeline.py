"""Reading, explaining and writing at the same time, so that the slowest of them sets the pace."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeAlias

import torch

from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.settings import Workers
from apercu.deploy.batch.shard_writer import LoadedImage, ShardWriter
from apercu.deploy.batch.work_folder import Plan, Unit, WorkFolder
from apercu.deploy.inference import ExplainedBatch, InferenceEngine
from apercu.errors import InputError
from apercu.images.names import escape_undecodable

UNITS_AHEAD = 2
"""Units that are read before they are explained, and explained before they are written."""
MAX_ERROR_LENGTH = 500
"""Letters of an error that a row keeps."""

OnFinished: TypeAlias = Callable[[int], None]
"""Told how many more images are finished."""
TimedRead: TypeAlias = tuple[LoadedImage, float]


@dataclass
class StageTimes:
    """Seconds that each stage worked.

    Attributes:
        read: of all threads together.
        explain: of the one that explains.
        write: of the one that writes.
        wall: from the beginning to the end; added up where several machines work.
        workers: threads that read.
    """

    read: float = 0.0
    explain: float = 0.0
    write: float = 0.0
    wall: float = 0.0
    readers: int = 1

    @property
    def slowest(self) -> str:
        """The stage that sets the pace."""
        loads = {"reading": self.read / self.readers, "writing": self.write}
        return max({"explaining": self.explain, **loads}.items(), key=lambda one: one[1])[0]


@dataclass(eq=False)
class Pipeline:
    """Three stages with a bounded number of images between them.

    Args:
        images: that are read.
        engine: explains them.
        target: what it is asked, a class or the one seen most.
        sealing: how shards are written.
        crew: how many threads read.
    """

    images: Dataset
    engine: InferenceEngine
    target: int
    shard_writer: ShardWriter
    workers: Workers
    times: StageTimes = field(default_factory=StageTimes)

    def __call__(self, shards: Iterable[int], on_finished: OnFinished) -> StageTimes:
        """Explains what is missing of some shards and writes them, in this order.

        Raises:
            OutputError: the result cannot be written.
            UnreachableError: images cannot be reached now.
        """
        self.times = StageTimes(readers=self.workers.readers)
        begun = time.perf_counter()
        readers = ThreadPoolExecutor(self.workers.readers, "read", lower_priority)
        writer = ThreadPoolExecutor(1, "write", lower_priority)
        try:
            self._process_units(
                _list_units(self.shard_writer.plan, shards), readers, writer, on_finished
            )
        finally:
            readers.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
        self.times.wall = time.perf_counter() - begun
        return self.times

    def _process_units(
        self,
        units: Iterator[Unit],
        readers: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        on_finished: OnFinished,
    ) -> None:
        desk = WorkFolder(self.shard_writer.out)
        reading: deque[tuple[Unit, list[Future[TimedRead]]]] = deque()
        writing: deque[Future[int]] = deque()
        ahead = UNITS_AHEAD + self.workers.readers // self.shard_writer.plan.batch_size
        more = True
        while more or reading:
            while more and len(reading) < ahead:
                unit = next(units, None)
                more = unit is not None
                if unit is not None:
                    rows = () if desk.has_unit(unit) else range(unit.start, unit.stop)
                    reading.append((unit, [readers.submit(self._read_image, row) for row in rows]))
            if reading:
                unit, futures = reading.popleft()
                seen = self._collect_images(futures)
                answers = self._explain_images(seen)
                writing.append(writer.submit(self._write_unit, unit, seen, answers))
            while len(writing) > UNITS_AHEAD:
                on_finished(writing.popleft().result())
        while writing:
            on_finished(writing.popleft().result())

    def _read_image(self, index: int) -> TimedRead:
        """One image, ready to be explained, or why it is not; and the seconds that took."""
        begun = time.perf_counter()
        name = escape_undecodable(self.images.get_name(index))
        try:
            picture = self.images.read_picture(index)
            size = (picture.shape[1], picture.shape[2])
            seen = LoadedImage(index, name, size, self.engine.prepare(picture))
        except InputError as error:
            reason = " ".join(escape_undecodable(str(error)).split())
            seen = LoadedImage(index, name, error=reason[:MAX_ERROR_LENGTH])
        return seen, time.perf_counter() - begun

    def _collect_images(self, futures: list[Future[TimedRead]]) -> list[LoadedImage]:
        found = [future.result() for future in futures]
        self.times.read += sum(seconds for _, seconds in found)
        return [seen for seen, _ in found]

    def _explain_images(self, images: list[LoadedImage]) -> ExplainedBatch | None:
        images = [one.image for one in images if one.image is not None]
        if not images:
            return None
        begun = time.perf_counter()
        answers = self.engine(torch.stack(images), self.target)
        self.times.explain += time.perf_counter() - begun
        return answers

    def _write_unit(
        self, unit: Unit, images: list[LoadedImage], explained: ExplainedBatch | None
    ) -> int:
        """Keeps a unit's rows, and the shard with its last one; how many images that makes."""
        begun = time.perf_counter()
        if images:
            WorkFolder(self.shard_writer.out).write_unit(
                unit, self.shard_writer.row_builder.build_table(images, explained)
            )
        if unit.stop == self.shard_writer.plan.rows(unit.shard).stop:
            self.shard_writer(unit.shard)
        self.times.write += time.perf_counter() - begun
        return len(images)


def lower_priority() -> None:
    """Lets the thread that explains go first where cores are few; Linux knows such threads."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + 5))


def _list_units(plan: Plan, shards: Iterable[int]) -> Iterator[Unit]:
    return (unit for shard in shards for unit in plan.split_into_units(shard))
