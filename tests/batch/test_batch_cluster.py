"""A cluster writes the same result as one machine, even if a machine dies during the work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

from apercu.deploy.batch import (
    BatchRequest,
    BatchSettings,
    ExplainerRef,
    Workers,
    ray_cluster,
    run_batch,
)
from apercu.deploy.batch.ray_cluster import (
    RayCluster,
    _explain_shard,
    _find_cause,
    check_listening,
    check_resources,
    make_paths_absolute,
)
from apercu.errors import ConfigError, OutputError, RunError, UnreachableError

from .conftest import COUNT, read_files

IMAGES = 64
PLANTED = f"planted:size=512,images={IMAGES},classes=3"
SCRIPT = Path(__file__).parent / "two_nodes.py"


@pytest.mark.slow
def test_nothing_is_lost_or_doubled_when_a_node_dies(tiny_run, tmp_path) -> None:
    settings = BatchSettings(shard=8, batch=2)
    request = BatchRequest(
        ExplainerRef(tiny_run), PLANTED, tmp_path / "one", settings, Workers(1, 1)
    )
    run_batch(request, lambda done, total: None)
    command = [sys.executable, SCRIPT, tiny_run, PLANTED, tmp_path / "two", "8", "2"]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "RAY_worker_niceness": "0",  # else both nodes wait for whatever else this machine does
    }
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, env=environment, timeout=540
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "killed while 2 shards were begun" in done.stdout
    assert f"finished {(IMAGES, IMAGES, True)}" in done.stdout
    assert read_files(tmp_path / "two") == read_files(tmp_path / "one")


def test_shards_explained_in_any_order_are_the_same(make_request, explain, tmp_path) -> None:
    whole = read_files(explain(out=tmp_path / "whole"))
    request = make_request(out=tmp_path / "shards")

    def execute(opened, shards, on_finished):
        for shard in (*shards[::-1], shards[0]):  # in any order, one of them twice
            row = _explain_shard({"shard": shard}, make_paths_absolute(opened.request))
            assert row["shard"] == shard
        return opened.explain_shards([], on_finished)

    run_batch(request, lambda count, total: None, execute)
    assert read_files(request.out) == whole


def test_removed_units_of_a_finished_shard_are_no_error(make_request, monkeypatch) -> None:
    from apercu.deploy.batch.work_folder import WorkFolder

    request = make_request()
    read_units = WorkFolder.read_units

    def finish_first(self, plan, shard):
        """Another machine finishes the shard after its last unit and before it is written."""
        monkeypatch.setattr(WorkFolder, "read_units", read_units)
        request.open().explain_shards([shard], lambda more: None)
        return read_units(self, plan, shard)

    def execute(opened, shards, on_finished):
        monkeypatch.setattr(WorkFolder, "read_units", finish_first)
        for shard in shards:
            _explain_shard({"shard": shard}, make_paths_absolute(opened.request))
        return opened.explain_shards([], on_finished)

    summary = run_batch(request, lambda count, total: None, execute)
    assert summary.manifest["images"] == COUNT


def test_resources_are_checked_before_the_work(make_request, monkeypatch) -> None:
    cluster = SimpleNamespace(nodes=lambda: NODES)  # Ray's data would be missed
    monkeypatch.setattr(ray_cluster, "_connect_to_cluster", lambda address: nullcontext(cluster))
    with pytest.raises(ConfigError, match="the largest machine, 4"):
        run_batch(make_request(workers=Workers(1, 9)), lambda done, total: None, RayCluster("auto"))


def test_a_missing_shard_is_an_error(make_request) -> None:
    request = make_request()
    with pytest.raises(RunError, match="2 shards are missing"):
        run_batch(
            request, lambda count, total: None, lambda opened, *_: opened.explain_shards([1], print)
        )
    assert not (request.out / "manifest.json").exists()


def test_the_error_of_a_machine_is_raised_again() -> None:
    ours = OutputError("maps: cannot be written")
    outer = RuntimeError("task failed")
    outer.__cause__ = ours
    assert _find_cause(outer) is ours
    wrapped = RuntimeError("task failed")
    wrapped.cause = outer
    assert _find_cause(wrapped) is ours
    assert isinstance(_find_cause(RuntimeError("lost")), UnreachableError)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://localhost:{}"])
def test_an_address_where_nothing_listens_is_refused(form) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        check_listening(address)
    with pytest.raises(UnreachableError, match=rf"^cluster: {address} cannot be reached \(.+\)$"):
        check_listening(address)


@pytest.mark.parametrize("address", ["auto", "local", "nonsense://", "host:door"])
def test_other_addresses_are_checked_by_ray(address) -> None:
    check_listening(address)


NODES = [
    {"Alive": True, "Resources": {"CPU": 4.0}},
    {"Alive": True, "Resources": {"CPU": 2.0, "GPU": 1.0}},
    {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
]


@pytest.mark.parametrize("workers", [Workers(1, 4), Workers(1, 2, "cuda")])
def test_a_task_that_fits_on_a_machine_is_accepted(workers) -> None:
    check_resources(NODES, workers)


@pytest.mark.parametrize(
    ("nodes", "workers", "words"),
    [
        (NODES, Workers(1, 5), "the largest machine, 4, as --threads, got 5"),
        (NODES, Workers(1, 3, "cuda"), "the largest machine, 2, as --threads, got 3"),
        (NODES[:1], Workers(1, 1, "cuda"), "no machine has a GPU; use --device cpu"),
        ([], Workers(1, 1), "the largest machine, 0, as --threads, got 1"),
    ],
)
def test_a_task_that_fits_on_no_machine_is_refused(nodes, workers, words) -> None:
    with pytest.raises(ConfigError, match=words):
        check_resources(nodes, workers)
