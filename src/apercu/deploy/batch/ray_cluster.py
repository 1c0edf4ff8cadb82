"""A batch on a Ray cluster: Ray Data distributes shards, and distributes lost ones again."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier
from apercu.deploy.batch.pipeline import OnFinished, StageTimes
from apercu.deploy.batch.request import BatchRequest, OpenBatch
from apercu.deploy.batch.settings import Workers
from apercu.deploy.batch.work_folder import WorkFolder
from apercu.errors import ApercuError, ConfigError, RunError, UnreachableError
from apercu.extras import require_extra

LOCAL = "local"
OBJECT_STORE_BYTES = 200 << 20
"""Memory for results of tasks on a cluster that is started here: a few numbers per shard."""
STAGES = ("read", "explain", "write")
CONNECT_SECONDS = 5.0
"""Seconds within which an address must answer."""


@dataclass(frozen=True)
class RayCluster:
    """An executor whose machines share the work; each sees RUN, the images and the result.

    Attributes:
        address: the address of the cluster; `auto` finds the one that this machine belongs to,
            `local` starts one here.
    """

    address: str

    def __call__(
        self, opened: OpenBatch, shards: Sequence[int], on_finished: OnFinished
    ) -> StageTimes:
        """Explain what is missing of some shards, and write them.

        Args:
            opened: the batch.
            shards: the numbers of the shards.
            on_finished: is called with the number of further images that are finished.

        Returns:
            The seconds that each stage worked, of all machines together.

        Raises:
            ConfigError: Ray is not installed, or no machine has the cores or the GPU of a task.
            UnreachableError: the cluster cannot be reached.
            ApercuError: an error that a machine met.
        """
        if not shards:
            return StageTimes()
        work_folder, plan = WorkFolder(opened.request.out), opened.plan
        missing = {shard: work_folder.count_missing(plan, shard) for shard in shards}
        request = make_paths_absolute(opened.request)
        times = StageTimes(readers=request.workers.readers)
        with _connect_to_cluster(self.address) as ray:
            check_resources(ray.nodes(), request.workers)
            results = ray.data.from_items(
                [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
            ).map(
                _explain_shard,
                fn_kwargs={"request": request},
                num_cpus=request.workers.threads,
                num_gpus=int(request.workers.device == "cuda"),
            )
            for row in _iterate_rows(results):
                on_finished(missing[row["shard"]])
                for name in (*STAGES, "wall"):
                    setattr(times, name, getattr(times, name) + row[name])
        return times


def make_paths_absolute(request: BatchRequest) -> BatchRequest:
    """Return a request with paths that mean the same on every machine.

    Raises:
        ConfigError: the explainer is an object, which the machines cannot open by themselves.
    """
    ref = request.explainer
    if not isinstance(ref.run, Path) or isinstance(ref.classifier, Classifier):
        raise ConfigError(
            "cluster: every machine opens the explainer by itself; give the path of its run and "
            "the SPEC of its classifier"
        )
    images = Path(request.images)
    return replace(
        request,
        explainer=replace(ref, run=ref.run.absolute()),
        images=str(images.absolute()) if images.exists() else request.images,
        out=request.out.absolute(),
    )


def _explain_shard(row: dict[str, Any], request: BatchRequest) -> dict[str, Any]:
    """Explain one shard on some machine; a finished one is left as it is."""
    shard = int(row["shard"])
    work_folder = WorkFolder(request.out)
    times = StageTimes()
    if work_folder.read_record(shard) is None:
        try:
            times = _open_once(request).explain_shards([shard], lambda more: None)
        except RunError:  # a machine that was taken for lost has finished it and removed the units
            if work_folder.read_record(shard) is None:
                raise
    return {"shard": shard, "wall": times.wall, **{name: getattr(times, name) for name in STAGES}}


@lru_cache(maxsize=1)
def _open_once(request: BatchRequest) -> OpenBatch:
    """Return the opened batch, which a worker process keeps from shard to shard."""
    return request.open()


@contextmanager
def _connect_to_cluster(address: str) -> Iterator[Any]:
    """Yield Ray, connected to a cluster and quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:  # else the tasks wait for whatever else this machine does
        os.environ.setdefault("RAY_worker_niceness", "0")
    require_extra("scale", "cluster")
    import ray
    import ray.data

    check_listening(address)
    local: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(local if address == LOCAL else {}),
        )
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UnreachableError(f"cluster: {address} cannot be reached ({reason})") from error
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        yield ray
    finally:
        ray.shutdown()


def _iterate_rows(results: Any) -> Iterator[dict[str, Any]]:
    """Yield what the tasks return, as it comes; raise their errors as they were raised there."""
    from ray.exceptions import RayError

    try:
        yield from results.iter_rows()
    except RayError as error:
        raise _find_cause(error) from error


def _find_cause(error: BaseException) -> ApercuError:
    """Return the first apercu error among the causes of an error, or an UnreachableError."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, ApercuError):
            return cause
        if cause is not None:
            waiting += [cause.__cause__, getattr(cause, "cause", None)]
    reason = " ".join(str(error).split())[-300:]
    return UnreachableError(f"cluster: a shard could not be finished ({reason})")


def check_listening(address: str) -> None:
    """Check that something listens at HOST:PORT; Ray checks other addresses.

    Raises:
        UnreachableError: nothing listens there.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreachableError(f"cluster: {address} cannot be reached ({reason})") from error


def check_resources(nodes: Iterable[Mapping[str, Any]], workers: Workers) -> None:
    """Check that a task fits on one of the machines, busy or not.

    Args:
        nodes: the machines, as `ray.nodes()` describes them.
        workers: the threads and the device that each task needs.

    Raises:
        ConfigError: it fits on none; Ray would wait for such a machine without a message.
    """
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    if workers.device == "cuda":
        resources = [free for free in resources if free.get("GPU", 0) >= 1]
        if not resources:
            raise ConfigError("cluster: no machine has a GPU; use --device cpu")
    cores = int(max((free.get("CPU", 0) for free in resources), default=0))
    if cores < workers.threads:
        raise ConfigError(
            f"cluster: expected at most the cores of the largest machine, {cores}, as --threads, "
            f"got {workers.threads}"
        )
