"""The same work on a Ray cluster: Ray Data hands out shards, and hands lost ones out again."""

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

from apercu.deploy.batch.explain_dataset import BatchRequest, OpenBatch
from apercu.deploy.batch.pipeline import OnFinished, StageTimes
from apercu.deploy.batch.settings import Workers
from apercu.deploy.batch.work_folder import WorkFolder
from apercu.errors import ApercuError, ConfigError, RunError, UnreachableError

LOCAL = "local"
OBJECT_STORE_BYTES = 200 << 20
"""Bytes for what tasks hand on, on a cluster that is started here: a few numbers per shard."""
STAGES = ("read", "explain", "write")


@dataclass(frozen=True)
class RayCluster:
    """Machines that share the work, each of which sees RUN, the images and the result.

    Args:
        address: of the cluster; `auto` finds the one that this machine belongs to, `local` starts
            one here.
    """

    address: str

    def __call__(
        self, opened: OpenBatch, shards: Sequence[int], on_finished: OnFinished
    ) -> StageTimes:
        """Explains what is missing of some shards, and writes them.

        Raises:
            ConfigError: Ray is not installed, or no machine has the cores or the GPU of a task.
            UnreachableError: the cluster cannot be reached.
            ApercuError: what went wrong on a machine.
        """
        if not shards:
            return StageTimes()
        desk, plan = WorkFolder(opened.request.out), opened.plan
        missing = {shard: desk.count_missing(plan, shard) for shard in shards}
        order = make_paths_absolute(opened.request)
        busy = StageTimes(readers=order.workers.readers)
        with _connect_to_cluster(self.address) as ray:
            check_resources(ray.nodes(), order.workers)
            started = ray.data.from_items(
                [{"shard": shard} for shard in shards], override_num_blocks=len(shards)
            ).map(
                _explain_shard,
                fn_kwargs={"order": order},
                num_cpus=order.workers.threads,
                num_gpus=int(order.workers.device == "cuda"),
            )
            for row in _iterate_rows(started):
                on_finished(missing[row["shard"]])
                for name in (*STAGES, "wall"):
                    setattr(busy, name, getattr(busy, name) + row[name])
        return busy


def make_paths_absolute(request: BatchRequest) -> BatchRequest:
    """The order with paths that mean the same on every machine."""
    images = (
        str(Path(request.images).absolute()) if Path(request.images).exists() else request.images
    )
    who = replace(request.explainer, run=request.explainer.run.absolute())
    return replace(request, who=who, images=images, out=request.out.absolute())


def _explain_shard(row: dict[str, Any], request: BatchRequest) -> dict[str, Any]:
    """Explains one shard on some machine; one that is finished already is left as it is."""
    shard = int(row["shard"])
    desk = WorkFolder(request.out)
    busy = StageTimes()
    if desk.read_record(shard) is None:
        try:
            busy = _open_once(request).explain_shards([shard], lambda more: None)
        except RunError:  # another machine, given up for lost, has cleared the units away
            if desk.read_record(shard) is None:
                raise
    return {"shard": shard, "wall": busy.wall, **{name: getattr(busy, name) for name in STAGES}}


@lru_cache(maxsize=1)
def _open_once(request: BatchRequest) -> OpenBatch:
    """What a worker process has opened already for the shard before."""
    return request.open()


@contextmanager
def _connect_to_cluster(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster and quiet."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address == LOCAL:  # else the tasks wait for whatever else this machine does
        os.environ.setdefault("RAY_worker_niceness", "0")
    try:
        import ray
        import ray.data
    except ImportError:
        raise ConfigError("cluster: ray is not installed; pip install 'apercu[scale]'") from None
    check_listening(address)
    own: dict[str, Any] = {"object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    try:
        ray.init(
            address,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **(own if address == LOCAL else {}),
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
    """What the tasks return, as it comes; their own errors as they were raised there."""
    from ray.exceptions import RayError

    try:
        yield from results.iter_rows()
    except RayError as error:
        raise _find_cause(error) from error


def _find_cause(error: BaseException) -> ApercuError:
    """Ours among the causes of an error, or one that tells that the cluster gave up."""
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, ApercuError):
            return one
        if one is not None:
            waiting += [one.__cause__, getattr(one, "cause", None)]
    reason = " ".join(str(error).split())[-300:]
    return UnreachableError(f"cluster: a shard could not be finished ({reason})")


CONNECT_SECONDS = 5.0
"""Seconds until something must answer."""


def check_listening(address: str) -> None:
    """Sees that something listens at HOST:PORT; other addresses are left to Ray.

    Raises:
        UnreachableError: nothing does.
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
    """Sees that a task fits on one of the machines, busy or not.

    Args:
        nodes: as `ray.nodes()` describes them.
        crew: whose threads and device each task needs.

    Raises:
        ConfigError: it fits on none; Ray would wait for such a machine without a word.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if workers.device == "cuda":
        rooms = [room for room in rooms if room.get("GPU", 0) >= 1]
        if not rooms:
            raise ConfigError("cluster: no machine has a GPU; use --device cpu")
    cores = int(max((room.get("CPU", 0) for room in rooms), default=0))
    if cores < workers.threads:
        raise ConfigError(
            f"cluster: expected at most the cores of the largest machine, {cores}, as --threads, "
            f"got {workers.threads}"
        )
