"""A batch as it was asked for, and the same with its explainer and its images opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import torch

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers import names as targets
from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.open_dataset import open_dataset
from apercu.deploy.batch.parquet_shards import ParquetShards
from apercu.deploy.batch.pipeline import OnFinished, Pipeline, StageTimes
from apercu.deploy.batch.settings import BatchRecord, BatchSettings, Workers
from apercu.deploy.batch.shard_writer import RowBuilder, ShardWriter
from apercu.deploy.batch.work_folder import Plan
from apercu.deploy.batch.zarr_shards import ZarrShards
from apercu.deploy.inference import InferenceEngine, open_engine
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.explain.options import TOP
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.images.names import escape_undecodable


@dataclass(frozen=True)
class ExplainerRef:
    """An explainer that is not opened yet.

    Attributes:
        run: the folder of a trained mask explainer or of its export, or a mask explainer.
        classifier: the explained classifier or its SPEC, where it predicts the classes and the
            explainer does not hold it.
        trust: whether the folder or a card may name a factory, whose code is run.
    """

    run: Path | MaskExplainer
    classifier: str | Classifier | None = None
    trust: bool = False

    def open(self, device: str = "cpu") -> InferenceEngine:
        """Open the explainer on a device, as `open_engine` does."""
        if isinstance(self.run, Path):
            return open_engine(self.run, self.classifier, device, trust=self.trust)
        classifier = self.classifier
        if isinstance(classifier, str):
            classifier = open_classifier(classifier, device=device, trust=self.trust)
        return TorchEngine.from_explainer(self.run.to(device), classifier)


@dataclass(frozen=True)
class BatchRequest:
    """A batch as it was asked for; every machine opens what it names by itself.

    Attributes:
        explainer: the explainer, not opened yet.
        images: a folder, a file, or a URL.
        out: the folder of the result.
        settings: the settings that the result depends on.
        workers: the threads of each machine.
    """

    explainer: ExplainerRef
    images: str
    out: Path
    settings: BatchSettings = field(default_factory=BatchSettings)
    workers: Workers = field(default_factory=Workers)

    def open(self) -> OpenBatch:
        """Open the explainer and the data set.

        Raises:
            InputError: one of them is wrong.
            UnreachableError: the images cannot be reached now.
        """
        with _limit_threads(self.workers.threads):
            engine = self.explainer.open(self.workers.device)
        target = self.settings.target
        index = targets.TOP if target == TOP else engine.names.find_index(target)
        dataset = open_dataset(self.images, engine.input, self.settings)
        return OpenBatch(self, engine, index, dataset)


@dataclass(frozen=True, eq=False)
class OpenBatch:
    """A batch with its explainer and its images opened.

    Attributes:
        request: the batch as it was asked for.
        engine: the explainer.
        target: the index of the class to explain; `targets.TOP` for the class predicted most.
        dataset: the images.
    """

    request: BatchRequest
    engine: InferenceEngine
    target: int
    dataset: Dataset

    @cached_property
    def plan(self) -> Plan:
        """How the images are divided into shards."""
        settings = self.request.settings
        return Plan(len(self.dataset), settings.shard, settings.batch)

    @cached_property
    def shard_writer(self) -> ShardWriter:
        """What writes the shards, in the format that was asked for."""
        settings, engine = self.request.settings, self.engine
        row_builder = RowBuilder(
            settings,
            engine.names.names,
            engine.input.size,
            self.dataset.kept_columns,
            engine.output,
        )
        writer = ZarrShards if settings.format == "zarr" else ParquetShards
        return writer(self.request.out, self.plan, row_builder)

    @cached_property
    def record(self) -> BatchRecord:
        """Everything that the result depends on."""
        return BatchRecord(
            images=escape_undecodable(self.request.images),
            count=len(self.dataset),
            sha256=self.dataset.compute_digest(),
            explainer=self.engine.info,
            settings=self.request.settings,
        )

    def explain_shards(self, shards: Iterable[int], on_finished: OnFinished) -> StageTimes:
        """Explain what is missing of some shards, and write them.

        Args:
            shards: the numbers of the shards, in the order of the work.
            on_finished: is called with the number of further images that are finished.

        Returns:
            The seconds that each stage worked.
        """
        workers = self.request.workers
        pipeline = Pipeline(self.dataset, self.engine, self.target, self.shard_writer, workers)
        with _limit_threads(workers.threads):
            return pipeline.run(shards, on_finished)


Executor: TypeAlias = Callable[[OpenBatch, Sequence[int], OnFinished], StageTimes]
"""Does the work of some shards, on this machine or on a cluster."""


@contextmanager
def _limit_threads(count: int) -> Iterator[None]:
    """Let torch, and what is opened meanwhile, use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
