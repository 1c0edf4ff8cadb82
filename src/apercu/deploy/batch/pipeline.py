"""Read, explain and write at the same time; the slowest of the three stages sets the pace."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch

from apercu.classifiers.outputs import check_finite_rows
from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.settings import Workers
from apercu.deploy.batch.shard_writer import LoadedImage, ShardWriter
from apercu.deploy.batch.work_folder import Plan, Unit, WorkFolder
from apercu.deploy.inference import ExplainedBatch, InferenceEngine
from apercu.errors import InputError, NotFiniteError
from apercu.images.names import escape_undecodable

UNITS_AHEAD = 2
"""Number of units that wait between reading and explaining, and between explaining and writing."""
MAX_ERROR_LENGTH = 500
"""Number of characters of an error that a row keeps."""

OnFinished: TypeAlias = Callable[[int], None]
"""Called with the number of further images that are finished."""
TimedRead: TypeAlias = tuple[LoadedImage, float]
"""An image, and the seconds that it took to read it."""


@dataclass
class StageTimes:
    """The seconds that each stage worked.

    Attributes:
        read: the seconds of all reading threads together.
        explain: the seconds of the thread that explains.
        write: the seconds of the thread that writes.
        wall: the seconds from the beginning to the end, added up over all machines.
        readers: the number of threads that read.
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
        return max({"explaining": self.explain, **loads}.items(), key=lambda load: load[1])[0]


@dataclass(eq=False)
class Pipeline:
    """Three stages with a bounded number of images between them.

    Attributes:
        images: the data set.
        engine: the explainer.
        target: the index of the class to explain, or `TOP_INDEX` for the class predicted
            most.
        shard_writer: writes the shards.
        workers: the number of threads that read.
        times: the seconds that each stage has worked in this run.
    """

    images: Dataset
    engine: InferenceEngine
    target: int
    shard_writer: ShardWriter
    workers: Workers
    times: StageTimes = field(default_factory=StageTimes)

    def run(self, shards: Iterable[int], on_finished: OnFinished) -> StageTimes:
        """Explain what is missing of some shards and write them, in this order.

        Args:
            shards: the numbers of the shards.
            on_finished: is called with the number of further images that are finished.

        Returns:
            The seconds that each stage worked.

        Raises:
            OutputError: the result cannot be written.
            UnreachableError: images cannot be reached now.
        """
        self.times = StageTimes(readers=self.workers.readers)
        start = time.perf_counter()
        readers = ThreadPoolExecutor(self.workers.readers, "read", lower_priority)
        writer = ThreadPoolExecutor(1, "write", lower_priority)
        try:
            self._process_units(
                _list_units(self.shard_writer.plan, shards), readers, writer, on_finished
            )
        finally:
            readers.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
        self.times.wall = time.perf_counter() - start
        return self.times

    def _process_units(
        self,
        units: Iterator[Unit],
        readers: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        on_finished: OnFinished,
    ) -> None:
        work_folder = WorkFolder(self.shard_writer.out)
        reading: deque[tuple[Unit, list[Future[TimedRead]]]] = deque()
        writing: deque[Future[int]] = deque()
        ahead = UNITS_AHEAD + self.workers.readers // self.shard_writer.plan.batch_size
        more = True
        while more or reading:
            while more and len(reading) < ahead:
                unit = next(units, None)
                more = unit is not None
                if unit is not None:
                    rows = () if work_folder.has_unit(unit) else range(unit.start, unit.stop)
                    reading.append((unit, [readers.submit(self._read_image, row) for row in rows]))
            if reading:
                unit, futures = reading.popleft()
                images = self._collect_images(futures)
                images, explained = self._explain_images(images)
                writing.append(writer.submit(self._write_unit, unit, images, explained))
            while len(writing) > UNITS_AHEAD:
                on_finished(writing.popleft().result())
        while writing:
            on_finished(writing.popleft().result())

    def _read_image(self, index: int) -> TimedRead:
        """Read one image, and prepare it for the explainer or note why it cannot be read."""
        start = time.perf_counter()
        name = escape_undecodable(self.images.get_name(index))
        values: dict[str, Any] = {}
        try:
            values = self.images.read_values(index)
            picture = self.images.read_picture(index)
            size = (picture.shape[1], picture.shape[2])
            image = LoadedImage(index, name, size, self.engine.prepare(picture), values=values)
        except InputError as error:
            reason = " ".join(escape_undecodable(str(error)).split())
            image = LoadedImage(index, name, error=reason[:MAX_ERROR_LENGTH], values=values)
        return image, time.perf_counter() - start

    def _collect_images(self, futures: list[Future[TimedRead]]) -> list[LoadedImage]:
        results = [future.result() for future in futures]
        self.times.read += sum(seconds for _, seconds in results)
        return [image for image, _ in results]

    def _explain_images(
        self, images: list[LoadedImage]
    ) -> tuple[list[LoadedImage], ExplainedBatch | None]:
        """Explain the images that were read; one without finite numbers becomes an error."""
        readable = [image for image in images if image.image is not None]
        if not readable:
            return images, None
        start = time.perf_counter()
        try:
            batch = torch.stack([image.image for image in readable if image.image is not None])
            explained = self.engine(batch, self.target)
            subject = f"{self.engine.info.classifier}: the explanation"
            check_finite_rows(subject, explained.probabilities, explained.maps)
        except NotFiniteError as error:
            reasons = {
                image.index: str(error.name_row(image.name))[:MAX_ERROR_LENGTH]
                for row, image in enumerate(readable)
                if row in error.rows
            }
            return self._explain_images(
                [
                    replace(image, size=None, image=None, error=reasons[image.index])
                    if image.index in reasons
                    else image
                    for image in images
                ]
            )
        finally:
            self.times.explain += time.perf_counter() - start
        return images, explained

    def _write_unit(
        self, unit: Unit, images: list[LoadedImage], explained: ExplainedBatch | None
    ) -> int:
        """Write a unit, and the shard after its last unit; return the number of new images."""
        start = time.perf_counter()
        if images:
            WorkFolder(self.shard_writer.out).write_unit(
                unit, self.shard_writer.row_builder.build_table(images, explained)
            )
        if unit.stop == self.shard_writer.plan.rows(unit.shard).stop:
            self.shard_writer.finish_shard(unit.shard)
        self.times.write += time.perf_counter() - start
        return len(images)


def lower_priority() -> None:
    """Lower the priority of this thread, so that the one that explains goes first; Linux only."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        priority = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(19, priority + 5))


def _list_units(plan: Plan, shards: Iterable[int]) -> Iterator[Unit]:
    return (unit for shard in shards for unit in plan.split_into_units(shard))
