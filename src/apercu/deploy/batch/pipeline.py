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

from apercu.deploy.batch.columns import Seen
from apercu.deploy.batch.dataset import DataSet
from apercu.deploy.batch.desk import Desk
from apercu.deploy.batch.plan import Plan, Unit
from apercu.deploy.batch.sealing import Sealing
from apercu.deploy.batch.settings import Crew
from apercu.deploy.inference import Answers, Engine
from apercu.errors import InputError
from apercu.images.names import printable

AHEAD = 2
"""Units that are read before they are explained, and explained before they are written."""
LONGEST = 500
"""Letters of an error that a row keeps."""

Done: TypeAlias = Callable[[int], None]
"""Told how many more images are finished."""
Read: TypeAlias = tuple[Seen, float]


@dataclass
class Busy:
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
    workers: int = 1

    @property
    def slowest(self) -> str:
        """The stage that sets the pace."""
        loads = {"reading": self.read / self.workers, "writing": self.write}
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

    images: DataSet
    engine: Engine
    target: int
    sealing: Sealing
    crew: Crew
    busy: Busy = field(default_factory=Busy)

    def __call__(self, shards: Iterable[int], done: Done) -> Busy:
        """Explains what is missing of some shards and writes them, in this order.

        Raises:
            OutputError: the result cannot be written.
            UnreachableError: images cannot be reached now.
        """
        self.busy = Busy(workers=self.crew.workers)
        begun = time.perf_counter()
        readers = ThreadPoolExecutor(self.crew.workers, "read", step_back)
        writer = ThreadPoolExecutor(1, "write", step_back)
        try:
            self._run(_units(self.sealing.plan, shards), readers, writer, done)
        finally:
            readers.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
        self.busy.wall = time.perf_counter() - begun
        return self.busy

    def _run(
        self,
        units: Iterator[Unit],
        readers: ThreadPoolExecutor,
        writer: ThreadPoolExecutor,
        done: Done,
    ) -> None:
        desk = Desk(self.sealing.out)
        reading: deque[tuple[Unit, list[Future[Read]]]] = deque()
        writing: deque[Future[int]] = deque()
        ahead = AHEAD + self.crew.workers // self.sealing.plan.batch
        more = True
        while more or reading:
            while more and len(reading) < ahead:
                unit = next(units, None)
                more = unit is not None
                if unit is not None:
                    rows = () if desk.has(unit) else range(unit.start, unit.stop)
                    reading.append((unit, [readers.submit(self._read, row) for row in rows]))
            if reading:
                unit, futures = reading.popleft()
                seen = self._gathered(futures)
                answers = self._explained(seen)
                writing.append(writer.submit(self._write, unit, seen, answers))
            while len(writing) > AHEAD:
                done(writing.popleft().result())
        while writing:
            done(writing.popleft().result())

    def _read(self, index: int) -> Read:
        """One image, ready to be explained, or why it is not; and the seconds that took."""
        begun = time.perf_counter()
        name = printable(self.images.name_of(index))
        try:
            picture = self.images.picture(index)
            size = (picture.shape[1], picture.shape[2])
            seen = Seen(index, name, size, self.engine.prepare(picture))
        except InputError as error:
            reason = " ".join(printable(str(error)).split())
            seen = Seen(index, name, error=reason[:LONGEST])
        return seen, time.perf_counter() - begun

    def _gathered(self, futures: list[Future[Read]]) -> list[Seen]:
        found = [future.result() for future in futures]
        self.busy.read += sum(seconds for _, seconds in found)
        return [seen for seen, _ in found]

    def _explained(self, seen: list[Seen]) -> Answers | None:
        images = [one.image for one in seen if one.image is not None]
        if not images:
            return None
        begun = time.perf_counter()
        answers = self.engine(torch.stack(images), self.target)
        self.busy.explain += time.perf_counter() - begun
        return answers

    def _write(self, unit: Unit, seen: list[Seen], answers: Answers | None) -> int:
        """Keeps a unit's rows, and the shard with its last one; how many images that makes."""
        begun = time.perf_counter()
        if seen:
            Desk(self.sealing.out).keep(unit, self.sealing.columns.table(seen, answers))
        if unit.stop == self.sealing.plan.rows(unit.shard).stop:
            self.sealing(unit.shard)
        self.busy.write += time.perf_counter() - begun
        return len(seen)


def step_back() -> None:
    """Lets the thread that explains go first where cores are few; Linux knows such threads."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(19, os.getpriority(os.PRIO_PROCESS, own) + 5))


def _units(plan: Plan, shards: Iterable[int]) -> Iterator[Unit]:
    return (unit for shard in shards for unit in plan.units(shard))
