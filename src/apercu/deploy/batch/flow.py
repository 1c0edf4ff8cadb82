"""The whole of it: a data set in, maps with a manifest out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch

from apercu.deploy.batch.columns import Columns
from apercu.deploy.batch.dataset import DataSet
from apercu.deploy.batch.desk import Desk, ShardRecord
from apercu.deploy.batch.job import Job
from apercu.deploy.batch.lock import locked
from apercu.deploy.batch.manifest import MANIFEST, read_finished, write_failures, write_manifest
from apercu.deploy.batch.open_dataset import open_dataset
from apercu.deploy.batch.parquet_shards import ParquetShards
from apercu.deploy.batch.pipeline import Busy, Done, Pipeline
from apercu.deploy.batch.plan import Plan
from apercu.deploy.batch.sealing import Sealing
from apercu.deploy.batch.settings import BatchSettings, Crew
from apercu.deploy.batch.who import Who
from apercu.deploy.batch.zarr_shards import ZarrShards
from apercu.deploy.export import graphs
from apercu.deploy.inference import Engine
from apercu.errors import RunError
from apercu.explain.asked import TOP
from apercu.images.names import printable
from apercu.io import check_writable

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many images are finished, and how many there are."""


@dataclass(frozen=True)
class Order:
    """A command as it was typed; every machine opens what it names by itself.

    Args:
        who: explains.
        images: a folder, a file, or a URL.
        out: folder of the result.
        settings: what is asked.
        crew: who works on each machine.
    """

    who: Who
    images: str
    out: Path
    settings: BatchSettings = field(default_factory=BatchSettings)
    crew: Crew = field(default_factory=Crew)

    def open(self) -> Opened:
        """Opens the explainer and the data set.

        Raises:
            InputError: one of them is wrong.
            UnreachableError: the images cannot be reached now.
        """
        with _threads(self.crew.threads):
            engine, asked = self.who.open(self.crew.device), self.settings.target
        target = graphs.TOP if asked == TOP else engine.names.index_of(asked)
        dataset = open_dataset(self.images, engine.input, self.settings)
        return Opened(self, engine, target, dataset)


@dataclass(frozen=True, eq=False)
class Opened:
    """An order with everything that it names.

    Attributes:
        order: as it was typed.
        engine: explains.
        target: what it is asked, a class or the one seen most.
        dataset: the images.
    """

    order: Order
    engine: Engine
    target: int
    dataset: DataSet

    @cached_property
    def plan(self) -> Plan:
        """Which images belong together."""
        settings = self.order.settings
        return Plan(len(self.dataset), settings.shard, settings.batch)

    @cached_property
    def sealing(self) -> Sealing:
        """How shards are written."""
        settings, engine = self.order.settings, self.engine
        columns = Columns(settings, engine.names.names, engine.input.size)
        kind = ZarrShards if settings.format == "zarr" else ParquetShards
        return kind(self.order.out, self.plan, columns)

    @cached_property
    def job(self) -> Job:
        """What the result depends on."""
        return Job(
            images=printable(self.order.images),
            count=len(self.dataset),
            sha256=self.dataset.digest(),
            explainer=self.engine.about,
            settings=self.order.settings,
        )

    def work(self, shards: Iterable[int], done: Done) -> Busy:
        """Explains what is missing of some shards, and writes them."""
        crew = self.order.crew
        pipeline = Pipeline(self.dataset, self.engine, self.target, self.sealing, crew)
        with _threads(crew.threads):
            return pipeline(shards, done)


Way: TypeAlias = Callable[[Opened, Sequence[int], Done], Busy]
"""Does the work of some shards: on this machine, or on a cluster."""


@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        manifest: of the result.
        explained: images that this command worked on; the others were there already.
        seconds: from the first image to the last.
        busy: seconds of each stage, of all machines together.
    """

    manifest: dict[str, Any]
    explained: int
    seconds: float
    busy: Busy


def explain_all(order: Order, progress: Progress, way: Way | None = None) -> Outcome:
    """Explains a data set; what an earlier attempt has finished is kept.

    Args:
        order: what is asked.
        progress: told how many images are finished, and how many there are.
        way: who does the work; this process where None.

    Raises:
        InputError: the explainer, the images or the settings are wrong, or others than those that
            the result was begun with.
        OutputError: the result cannot be written.
        UnreachableError: images, or the cluster, cannot be reached now.
    """
    opened = order.open()
    check_writable(order.out)
    with locked(order.out):
        opened.job.begin(order.out)
        if (order.out / MANIFEST).is_file():
            return Outcome(read_finished(order.out), 0, 0.0, Busy())
        return _explain(opened, progress, way or Opened.work)


def _explain(opened: Opened, progress: Progress, way: Way) -> Outcome:
    desk, plan = Desk(opened.order.out), opened.plan
    opened.sealing.begin()
    left = [shard for shard in range(plan.shards) if desk.record(shard) is None]
    there = plan.images - sum(desk.missing(plan, shard) for shard in left)
    finished = there
    progress(finished, plan.images)

    def done(more: int) -> None:
        nonlocal finished
        finished += more
        progress(finished, plan.images)

    begun = time.perf_counter()
    busy = way(opened, left, done)
    seconds = time.perf_counter() - begun
    records = _records(desk, plan)
    write_failures(opened.order.out, opened.sealing, records)
    manifest = write_manifest(opened.order.out, opened.job, records)
    desk.clear()
    return Outcome(manifest, plan.images - there, seconds, busy)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Within it so many threads explain, in torch and in what is opened."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _records(desk: Desk, plan: Plan) -> list[ShardRecord]:
    """Of all shards, in order."""
    records = [desk.record(shard) for shard in range(plan.shards)]
    found = [record for record in records if record is not None]
    if len(found) < plan.shards:
        raise RunError(
            f"{desk.out}: {plan.shards - len(found)} shards are missing; run the same again"
        )
    return found
