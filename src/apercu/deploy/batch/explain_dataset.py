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

from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.job import BatchRecord
from apercu.deploy.batch.lock import lock_folder
from apercu.deploy.batch.manifest import MANIFEST, read_finished, write_failures, write_manifest
from apercu.deploy.batch.open_dataset import open_dataset
from apercu.deploy.batch.parquet_shards import ParquetShards
from apercu.deploy.batch.pipeline import OnFinished, Pipeline, StageTimes
from apercu.deploy.batch.settings import BatchSettings, ExplainerRef, Workers
from apercu.deploy.batch.shard_writer import RowBuilder, ShardWriter
from apercu.deploy.batch.work_folder import Plan, ShardRecord, WorkFolder
from apercu.deploy.batch.zarr_shards import ZarrShards
from apercu.deploy.export import graphs
from apercu.deploy.inference import InferenceEngine
from apercu.errors import RunError
from apercu.explain.options import TOP
from apercu.images.names import escape_undecodable
from apercu.io import check_writable

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many images are finished, and how many there are."""


@dataclass(frozen=True)
class BatchRequest:
    """A command as it was typed; every machine opens what it names by itself.

    Args:
        who: explains.
        images: a folder, a file, or a URL.
        out: folder of the result.
        settings: what is asked.
        crew: who works on each machine.
    """

    explainer: ExplainerRef
    images: str
    out: Path
    settings: BatchSettings = field(default_factory=BatchSettings)
    workers: Workers = field(default_factory=Workers)

    def open(self) -> OpenBatch:
        """Opens the explainer and the data set.

        Raises:
            InputError: one of them is wrong.
            UnreachableError: the images cannot be reached now.
        """
        with _limit_threads(self.workers.threads):
            engine, asked = self.explainer.open(self.workers.device), self.settings.target
        target = graphs.TOP if asked == TOP else engine.names.find_index(asked)
        dataset = open_dataset(self.images, engine.input, self.settings)
        return OpenBatch(self, engine, target, dataset)


@dataclass(frozen=True, eq=False)
class OpenBatch:
    """An order with everything that it names.

    Attributes:
        order: as it was typed.
        engine: explains.
        target: what it is asked, a class or the one seen most.
        dataset: the images.
    """

    request: BatchRequest
    engine: InferenceEngine
    target: int
    dataset: Dataset

    @cached_property
    def plan(self) -> Plan:
        """Which images belong together."""
        settings = self.request.settings
        return Plan(len(self.dataset), settings.shard, settings.batch)

    @cached_property
    def shard_writer(self) -> ShardWriter:
        """How shards are written."""
        settings, engine = self.request.settings, self.engine
        columns = RowBuilder(settings, engine.names.names, engine.input.size)
        kind = ZarrShards if settings.format == "zarr" else ParquetShards
        return kind(self.request.out, self.plan, columns)

    @cached_property
    def record(self) -> BatchRecord:
        """What the result depends on."""
        return BatchRecord(
            images=escape_undecodable(self.request.images),
            count=len(self.dataset),
            sha256=self.dataset.compute_digest(),
            explainer=self.engine.info,
            settings=self.request.settings,
        )

    def explain_shards(self, shards: Iterable[int], on_finished: OnFinished) -> StageTimes:
        """Explains what is missing of some shards, and writes them."""
        crew = self.request.workers
        pipeline = Pipeline(self.dataset, self.engine, self.target, self.shard_writer, crew)
        with _limit_threads(crew.threads):
            return pipeline(shards, on_finished)


Executor: TypeAlias = Callable[[OpenBatch, Sequence[int], OnFinished], StageTimes]
"""Does the work of some shards: on this machine, or on a cluster."""


@dataclass(frozen=True)
class BatchSummary:
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
    times: StageTimes


def run_batch(
    request: BatchRequest, progress: Progress, executor: Executor | None = None
) -> BatchSummary:
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
    opened = request.open()
    check_writable(request.out)
    with lock_folder(request.out):
        opened.record.begin(request.out)
        if (request.out / MANIFEST).is_file():
            return BatchSummary(read_finished(request.out), 0, 0.0, StageTimes())
        return _explain_missing(opened, progress, executor or OpenBatch.explain_shards)


def _explain_missing(opened: OpenBatch, progress: Progress, executor: Executor) -> BatchSummary:
    desk, plan = WorkFolder(opened.request.out), opened.plan
    opened.shard_writer.prepare_output()
    left = [shard for shard in range(plan.shard_count) if desk.read_record(shard) is None]
    there = plan.image_count - sum(desk.count_missing(plan, shard) for shard in left)
    finished = there
    progress(finished, plan.image_count)

    def done(more: int) -> None:
        nonlocal finished
        finished += more
        progress(finished, plan.image_count)

    begun = time.perf_counter()
    busy = executor(opened, left, done)
    seconds = time.perf_counter() - begun
    records = _read_records(desk, plan)
    write_failures(opened.request.out, opened.shard_writer, records)
    manifest = write_manifest(opened.request.out, opened.record, records)
    desk.clear()
    return BatchSummary(manifest, plan.image_count - there, seconds, busy)


@contextmanager
def _limit_threads(count: int) -> Iterator[None]:
    """Within it so many threads explain, in torch and in what is opened."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _read_records(work_folder: WorkFolder, plan: Plan) -> list[ShardRecord]:
    """Of all shards, in order."""
    records = [work_folder.read_record(shard) for shard in range(plan.shard_count)]
    found = [record for record in records if record is not None]
    if len(found) < plan.shard_count:
        raise RunError(
            f"{work_folder.out}: {plan.shard_count - len(found)} shards are missing; run the same again"
        )
    return found
