"""A batch as it was asked for, and the same with its explainer and its images opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import torch

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.batch.dataset import Dataset, RandomSubset, SourceDataset, UrlDataset
from apercu.deploy.batch.parquet_dataset import ParquetDataset
from apercu.deploy.batch.parquet_shards import ParquetShards
from apercu.deploy.batch.pipeline import OnFinished, Pipeline, StageTimes
from apercu.deploy.batch.remote_files import RemoteFiles, is_url, list_files
from apercu.deploy.batch.settings import BatchRecord, BatchSettings, Workers
from apercu.deploy.batch.shard_writer import RowBuilder, ShardWriter
from apercu.deploy.batch.work_folder import Plan
from apercu.deploy.batch.zarr_shards import ZarrShards
from apercu.deploy.inference import InferenceEngine, open_engine
from apercu.errors import ConfigError, ImagesError, TargetError
from apercu.explain.options import TOP
from apercu.explainers.base import MaskingExplainer
from apercu.images import check_images, open_images
from apercu.images.names import escape_undecodable, has_suffix
from apercu.images.reader import SUFFIXES
from apercu.verdicts import GuardChoice


@dataclass(frozen=True)
class ExplainerRef:
    """An explainer that is not opened yet.

    Attributes:
        run: the folder of a trained mask explainer or of its export, or a mask explainer.
        classifier: the explained classifier or its SPEC, where it predicts the classes and the
            explainer does not hold it.
        trust: whether the folder or a card may name a factory, whose code is run.
        guard: a guard or its folder, which judges the predictions; see `open_engine`.
    """

    run: Path | MaskingExplainer[Any, Any]
    classifier: str | Classifier | None = None
    trust: bool = False
    guard: GuardChoice = None

    def open(self, device: str = "auto") -> InferenceEngine:
        """Open the explainer on a device, as `open_engine` does."""
        return open_engine(self.run, self.classifier, device, trust=self.trust, guard=self.guard)


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
        if not is_url(self.images):
            check_images(self.images)
        with _limit_threads(self.workers.threads):
            engine = self.explainer.open(self.workers.device)
        target = self.settings.target
        index = TOP_INDEX if target == TOP else engine.names.find_index(target)
        dataset = open_dataset(self.images, engine.input, self.settings)
        return OpenBatch(self, engine, index, dataset)


@dataclass(frozen=True, eq=False)
class OpenBatch:
    """A batch with its explainer and its images opened.

    Attributes:
        request: the batch as it was asked for.
        engine: the explainer.
        target: the index of the class to explain; `TOP_INDEX` for the class predicted most.
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
            settings=settings,
            classes=engine.names.names,
            size=engine.input.size,
            kept=self.dataset.kept_columns,
            output=engine.output,
            has_guard=engine.has_guard,
        )
        writer = ZarrShards if settings.format == "zarr" else ParquetShards
        return writer(self.request.out, self.plan, row_builder)

    @cached_property
    def record(self) -> BatchRecord:
        """Everything that the result depends on."""
        settings = self.request.settings
        if settings.target == self.target and self._names_target(str(self.target)):
            settings = replace(settings, target=str(self.target))  # as it is typed
        return BatchRecord(
            images=escape_undecodable(self.request.images),
            count=len(self.dataset),
            sha256=self.dataset.compute_digest(),
            explainer=self.engine.info,
            settings=settings,
        )

    def _names_target(self, word: str) -> bool:
        """Whether a text names the class that is explained, and no other one."""
        with suppress(TargetError):
            return self.engine.names.find_index(word) == self.target
        return False

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


TABLE_SUFFIXES = (".parquet",)


def open_dataset(spec: str, input: InputSpec, settings: BatchSettings) -> Dataset:
    """Open images by their name, and draw some of them at random where the settings have a limit.

    A folder or a URL that holds Parquet files is one data set of all their rows.

    Args:
        spec: a folder, a file, or a URL.
        input: the number of channels and the names of the bands.
        settings: the limit and the seed of the draw.

    Returns:
        The data set.

    Raises:
        ImagesError: the name leads to nothing, or to nothing that can be explained, or there are
            pictures beside Parquet files and no labels.csv says which files are meant.
        ConfigError: a column that shall be kept is not there.
        UnreachableError: the storage does not answer.
    """
    images = _open_all(spec, input, settings.keep)
    if settings.keep and not isinstance(images, ParquetDataset):
        raise ConfigError(f"keep: {spec} has no columns; only Parquet files have")
    return images if settings.limit is None else RandomSubset(images, settings.limit, settings.seed)


def _open_all(spec: str, input: InputSpec, keep: tuple[str, ...]) -> Dataset:
    if is_url(spec):
        return _open_remote(list_files(spec), input, keep)
    path = Path(spec)
    if path.is_dir() and _has_tables(path) and not (path / "labels.csv").is_file():
        return _open_remote(list_files(spec), input, keep)
    if path.is_file() and has_suffix(spec, TABLE_SUFFIXES):
        return ParquetDataset(list_files(spec), input.channels, keep)
    return SourceDataset(open_images(spec, channels=input.channels, bands=input.bands))


def _has_tables(path: Path) -> bool:
    """Return whether a folder holds Parquet files, or only folders below it do."""
    if any(path.glob("*.parquet")):
        return True
    files = (file for file in path.rglob("*") if not file.name.startswith("."))
    names = [file.name for file in files if has_suffix(file.name, (*SUFFIXES, *TABLE_SUFFIXES))]
    return bool(names) and all(has_suffix(name, TABLE_SUFFIXES) for name in names)


def _open_remote(files: RemoteFiles, input: InputSpec, keep: tuple[str, ...]) -> Dataset:
    """Return a data set of pictures, or of the rows of tables."""
    pictures, tables = _select_suffixes(files, SUFFIXES), _select_suffixes(files, TABLE_SUFFIXES)
    if pictures and tables:
        raise ImagesError(
            f"{files.url}: expected either pictures or Parquet files, got both (such as "
            f"{pictures.paths[0]} and {tables.paths[0]}); give each a folder of its own"
        )
    if pictures:
        return UrlDataset(pictures, input)
    if tables:
        return ParquetDataset(tables, input.channels, keep)
    raise ImagesError(
        f"{files.url}: no images, expected files that end in {' '.join(sorted(SUFFIXES))} "
        "or .parquet"
    )


def _select_suffixes(
    files: RemoteFiles, suffixes: frozenset[str] | tuple[str, ...]
) -> RemoteFiles | None:
    """Return the files with one of the suffixes; None if there are none."""
    chosen = [index for index, path in enumerate(files.paths) if has_suffix(path, suffixes)]
    if not chosen:
        return None
    return replace(
        files,
        paths=tuple(files.paths[index] for index in chosen),
        sizes=tuple(files.sizes[index] for index in chosen),
    )
