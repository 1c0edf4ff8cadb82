"""`apercu.explain_dataset`: explain a whole data set into shards with a manifest."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier
from apercu.classifiers.names import ClassWord, read_class_word
from apercu.classifiers.trust import is_trusting
from apercu.deploy.batch.manifest import (
    ERRORS_FILE,
    MANIFEST,
    read_finished,
    write_failures,
    write_manifest,
)
from apercu.deploy.batch.pipeline import StageTimes
from apercu.deploy.batch.ray_cluster import RayCluster
from apercu.deploy.batch.request import BatchRequest, Executor, ExplainerRef, OpenBatch
from apercu.deploy.batch.settings import FORMATS, MAPS, RECORD_FILE, BatchSettings, Workers
from apercu.deploy.batch.work_folder import Plan, ShardRecord, WorkFolder
from apercu.deploy.export.settings import check_choice
from apercu.deploy.inference import choose_engine_device
from apercu.errors import ImagesError, RunError, describe_interrupt
from apercu.explain.options import TOP
from apercu.explainers.base import MaskingExplainer
from apercu.extras import require_extra
from apercu.io import check_writable
from apercu.progress import CountCallback, name_progress, open_progress
from apercu.run_record import RunRecord
from apercu.verdicts import GuardChoice

CLUSTER_WORKERS = Workers(readers=2, threads=1)
"""The threads of each task on a cluster."""


@dataclass(frozen=True)
class BatchSummary:
    """The result of a batch, and what it took.

    Attributes:
        manifest: the content of `manifest.json`.
        explained: the number of images that this call explained; the others were there already.
        seconds: the time from the first image to the last.
        times: the seconds that each stage worked, of all machines together.
    """

    manifest: dict[str, Any]
    explained: int
    seconds: float
    times: StageTimes

    def __repr__(self) -> str:
        """Return the numbers without the manifest, which lists every shard."""
        counts = {name: self.manifest[name] for name in ("images", "errors")}
        counts |= {"shards": len(self.manifest["shards"]), "explained": self.explained}
        words = [f"{name}={count}" for name, count in counts.items()]
        return f"BatchSummary({', '.join(words)}, seconds={self.seconds:.1f})"


def explain_dataset(
    explainer: str | Path | MaskingExplainer[Any, Any],
    images: str | Path,
    out: str | Path,
    *,
    target: ClassWord | None = TOP,
    level: float = 0.5,
    format: str = "parquet",
    map: str | None = None,
    shard: int = 1000,
    batch: int = 16,
    limit: int | None = None,
    seed: int = 0,
    keep: Sequence[str] = (),
    classifier: str | Path | Classifier | None = None,
    device: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    cluster: str | None = None,
    trust: bool = False,
    guard: GuardChoice = None,
    progress: CountCallback | bool | None = None,
) -> BatchSummary:
    """Explain a whole data set into sharded Parquet or Zarr, as `apercu batch` does.

    There is a row for each image, in the order of the source: name, size, class, probability, box
    and map. An image that cannot be read gets a row with an error, and a line in `errors.csv`.
    Stopped at any time, even killed, the same call continues where it stood. `manifest.json` is
    written last.

    >>> import apercu
    >>> summary = apercu.explain_dataset(  # doctest: +SKIP
    ...     "runs/mobilenet", "photos/", "maps", limit=1000
    ... )
    >>> summary.explained, summary.manifest["errors"]  # doctest: +SKIP
    (1000, 0)

    Args:
        explainer: the folder of a trained mask explainer or of its export, or a mask explainer.
        images: a folder of pictures or of Parquet files, a Parquet file, a stack, or a URL of one.
        out: the folder of the result.
        target: `top` or None for the class predicted most, or a class by name, identifier or index.
        level: where masks are cut for boxes, in (0, 1).
        format: `parquet` or `zarr`.
        map: how a map is stored, `png`, `uint8` or `float16`; None for PNG in Parquet and uint8
            in Zarr.
        shard: the number of images in each file, or in each chunk.
        batch: the number of images that are explained together.
        limit: the number of images, drawn at random; None for all.
        seed: the seed of the draw.
        keep: the columns of Parquet files that are kept beside the result, such as `label` or
            `image.path`; a name that the result itself has becomes `source.NAME`.
        classifier: the explained classifier or its SPEC, if it predicts the classes and the
            explainer does not hold it.
        device: `auto`, `cpu`, `cuda` or `mps`, where the explainer computes; with `auto` an opened
            explainer stays where it is, and an export computes on the CPU.
        workers: the number of threads that read and decode; None for a number that fits.
        threads: the number of threads that explain on the CPU; None for a number that fits.
        cluster: the address of a Ray cluster that shares the work, `auto`, `local` or `HOST:PORT`;
            its machines all see the explainer, the images and the folder of the result.
        trust: whether the folder or a card may name a factory, whose code is run.
        guard: a guard or its folder: each row then says whether its class may be believed
            (`tampered`, `unknown`, `confidence`, `alarms`). `none` for none; None for the one that
            the card of the classifier names. An export holds its own.
        progress: whether to show how far the work is, or a function that receives the number of
            finished images, and that of all; None shows it in notebooks only.

    Returns:
        The manifest of the result, and what it took.

    Raises:
        InputError: the explainer, the images or the settings are wrong, or others than those that
            the result was begun with, or no image at all could be read.
        MissingExtraError: a package for the format or the cluster is not installed.
        OutputError: the result cannot be written.
        UnreachableError: the images or the cluster cannot be reached now.
    """
    shard_format = check_choice(format, FORMATS, "format")
    encoding = map or ("uint8" if shard_format == "zarr" else "png")
    if shard_format == "zarr":
        require_extra("zarr", "format")
    if cluster is not None:
        require_extra("scale", "cluster")
    settings = BatchSettings(
        target=TOP if target is None else read_class_word(target),
        level=level,
        format=shard_format,
        map=check_choice(encoding, MAPS, "map"),
        shard=shard,
        batch=batch,
        limit=limit,
        seed=seed,
        keep=tuple(keep),
    )
    usual = Workers() if cluster is None else CLUSTER_WORKERS
    run = explainer if isinstance(explainer, MaskingExplainer) else Path(explainer)
    request = BatchRequest(
        ExplainerRef(
            run,
            str(classifier) if isinstance(classifier, Path) else classifier,
            trust or is_trusting(),
            str(guard) if isinstance(guard, Path) else guard,
        ),
        str(images),
        Path(out),
        settings,
        Workers(
            workers or usual.readers, threads or usual.threads, choose_engine_device(run, device)
        ),
    )
    kept = describe_interrupt(f"{out} keeps what is finished; the same call goes on")
    with kept, open_progress(name_progress(progress)) as report:
        count = partial(report, "images")
        return run_batch(request, count, None if cluster is None else RayCluster(cluster))


def run_batch(
    request: BatchRequest, progress: CountCallback, executor: Executor | None = None
) -> BatchSummary:
    """Explain a data set; what an earlier attempt finished is kept.

    Args:
        request: what is explained, and how.
        progress: is called with the number of finished images, and the number of all.
        executor: does the work of the shards; this process if None.

    Returns:
        The manifest of the result, and what it took.

    Raises:
        InputError: the explainer, the images or the settings are wrong, or others than those that
            the result was begun with, or no image at all could be read.
        OutputError: the result cannot be written.
        UnreachableError: the images or the cluster cannot be reached now.
    """
    check_writable(request.out)
    opened = request.open()
    record = RunRecord(
        request.out,
        {RECORD_FILE: opened.record},
        "batch",
        ignored=frozenset({"images"}),
    )
    with record.begin():
        if (request.out / MANIFEST).is_file():
            manifest = read_finished(request.out)
            if manifest["errors"] == manifest["images"]:
                raise ImagesError(
                    f"{request.images}: none of {manifest['images']} images could be read, "
                    f"{request.out / ERRORS_FILE} says why; choose another --out to try again"
                )
            return BatchSummary(manifest, 0, 0.0, StageTimes())
        return _explain_missing(opened, progress, executor or OpenBatch.explain_shards)


def _explain_missing(
    opened: OpenBatch, progress: CountCallback, executor: Executor
) -> BatchSummary:
    """Explain what is missing of a result, and write its manifest."""
    work_folder, plan = WorkFolder(opened.request.out), opened.plan
    opened.shard_writer.prepare_output()
    unfinished = [
        shard for shard in range(plan.shard_count) if work_folder.read_record(shard) is None
    ]
    missing = sum(work_folder.count_missing(plan, shard) for shard in unfinished)
    finished = plan.image_count - missing
    progress(finished, plan.image_count)

    def count_finished(more: int) -> None:
        nonlocal finished
        finished += more
        progress(finished, plan.image_count)

    start = time.perf_counter()
    times = executor(opened, unfinished, count_finished)
    seconds = time.perf_counter() - start
    records = _read_records(work_folder, plan)
    write_failures(opened.request.out, opened.shard_writer, records)
    if all(record.errors == record.rows for record in records):
        raise _discard_failure(opened, records)
    manifest = write_manifest(opened.request.out, opened.record, records)
    work_folder.clear()
    return BatchSummary(manifest, missing, seconds, times)


def _read_records(work_folder: WorkFolder, plan: Plan) -> list[ShardRecord]:
    """Read the records of all shards, in order; raise RunError where one is missing."""
    records = [work_folder.read_record(shard) for shard in range(plan.shard_count)]
    present = [record for record in records if record is not None]
    if len(present) < plan.shard_count:
        raise RunError(
            f"{work_folder.out}: {plan.shard_count - len(present)} shards are missing; run the "
            "same command again"
        )
    return present


def _discard_failure(opened: OpenBatch, records: Sequence[ShardRecord]) -> ImagesError:
    """Remove a result without one image, but for `errors.csv`, and return the error that says so.

    The same command begins anew, once the images can be read.
    """
    out, writer = opened.request.out, opened.shard_writer
    _, name, reason = writer.read_failures(records[0])[0]
    writer.remove_output()
    WorkFolder(out).clear()
    (out / RECORD_FILE).unlink(missing_ok=True)
    reason = reason if reason.startswith(name) else f"{name}: {reason}"
    return ImagesError(
        f"{opened.request.images}: none of {opened.plan.image_count} images could be read, "
        f"{out / ERRORS_FILE} says why, such as {reason}"
    )
