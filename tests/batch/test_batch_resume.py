"""A command that is killed continues where it stood, and writes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from apercu.deploy.batch import Workers, run_batch
from apercu.deploy.batch.work_folder import Plan, WorkFolder
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.errors import RunError
from apercu.run_record import lock_folder

from .conftest import COUNT, read_files

SLOWED = """
import sys, time
from pathlib import Path
from apercu.cli import main
from apercu.deploy.inference.torch_engine import TorchEngine

explain = TorchEngine.__call__
def slowly(self, images, target):
    time.sleep(0.3)
    return explain(self, images, target)
TorchEngine.__call__ = slowly
main(sys.argv[1:])
"""


def _start(run: Path, photos: Path, out: Path) -> subprocess.Popen[bytes]:
    """Start a process that explains slowly."""
    words = ["batch", run, photos, "--out", out, "--shard", 10, "--batch", 2, "--threads", 1]
    command = [sys.executable, "-c", SLOWED, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _count_units(out: Path) -> int:
    return len(list(out.glob("_work/*/*.arrow")))


def _count_shards(out: Path) -> int:
    return len(list(out.glob("_work/*.json")))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "within the first shard": lambda out: _count_units(out) >= 2,
    "one shard is finished": lambda out: _count_shards(out) >= 1,
    "within the last shard": lambda out: _count_shards(out) >= 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_started_again_it_writes_the_same_bytes(
    moment, explain, make_request, tiny_run, photos, tmp_path, monkeypatch
) -> None:
    whole, out = explain(out=tmp_path / "whole", batch=2), tmp_path / "killed"
    process = _start(tiny_run, photos, out)
    try:
        deadline = time.monotonic() + 120
        while not MOMENTS[moment](out) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    kept = _count_kept(out)
    assert 0 < kept < COUNT
    assert not (out / "manifest.json").exists()
    counts = _count_explained(monkeypatch)
    summary = run_batch(make_request(out=out, batch=2), lambda done, total: None)
    assert summary.explained == COUNT - kept
    assert counts["images"] <= summary.explained
    assert read_files(out) == read_files(whole)


def _count_kept(out: Path) -> int:
    """Return the number of images whose rows are on the disk."""
    folder, plan = WorkFolder(out), Plan(COUNT, 10, 2)
    unfinished = [shard for shard in range(plan.shard_count) if folder.read_record(shard) is None]
    units = [unit for shard in unfinished for unit in plan.split_into_units(shard)]
    return COUNT - sum(len(unit) for unit in units if not folder.has_unit(unit))


def _count_explained(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the images that the engine explains from now on."""
    counts: Counter[str] = Counter()
    explain = TorchEngine.__call__

    def counting(self: TorchEngine, images, target: int):
        counts["images"] += len(images)
        return explain(self, images, target)

    monkeypatch.setattr(TorchEngine, "__call__", counting)
    return counts


def test_incomplete_files_of_a_killed_process_are_removed(make_request, explain, tmp_path) -> None:
    whole = read_files(explain(out=tmp_path / "whole"))
    out = make_request().out
    (out / "maps").mkdir(parents=True)
    (out / "maps" / ".00000000.parquet.0123.part").write_bytes(b"half")
    explain()
    assert read_files(out) == whole


def test_a_finished_result_is_not_changed(explain, make_request, monkeypatch) -> None:
    before = read_files(explain())
    counts = _count_explained(monkeypatch)
    summary = run_batch(make_request(), lambda done, total: None)
    assert (summary.explained, counts["images"]) == (0, 0)
    assert summary.manifest["images"] == COUNT
    assert read_files(make_request().out) == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_missing_file_of_a_finished_result_is_named(harm, explain, make_request) -> None:
    explain()
    harm(make_request().out / "maps" / "00000001.parquet")
    with pytest.raises(RunError, match=r"00000001\.parquet: missing or damaged, though manifest"):
        run_batch(make_request(), lambda done, total: None)


def test_work_stopped_at_any_step_is_completed(
    explain, make_request, tmp_path, monkeypatch
) -> None:
    """The work stops between each two steps that write to the disk."""
    whole = read_files(explain(out=tmp_path / "whole"))
    write_unit, finish_shard = WorkFolder.write_unit, WorkFolder.finish_shard
    for step in range(11):
        out, left = tmp_path / f"{step}", [step]

        def stop_after(method, left=left):
            def call(self, *given):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return method(self, *given)

            return call

        monkeypatch.setattr(WorkFolder, "write_unit", stop_after(write_unit))
        monkeypatch.setattr(WorkFolder, "finish_shard", stop_after(finish_shard))
        request = make_request(out=out)
        if step < 10:
            with pytest.raises(KeyboardInterrupt):
                run_batch(request, lambda done, total: None)
        monkeypatch.setattr(WorkFolder, "write_unit", write_unit)
        monkeypatch.setattr(WorkFolder, "finish_shard", finish_shard)
        run_batch(request, lambda count, total: None)
        assert read_files(out) == whole, step


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"target": "dots"}, "had settings.target top, now dots"),
        ({"level": 0.3}, "had settings.level 0.5, now 0.3"),
        ({"map": "uint8"}, "had settings.map png, now uint8"),
        ({"batch": 5}, "had settings.batch 4, now 5"),
        ({"shard": 12}, "had settings.shard 10, now 12"),
        ({"limit": 3}, "had settings.limit nothing, now 3"),
    ],
)
def test_other_settings_are_refused(explain, make_request, other, words) -> None:
    explain()
    with pytest.raises(RunError, match=words):
        run_batch(make_request(**other), lambda done, total: None)


def test_another_explainer_is_refused(explain, make_request, tiny_run, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    explain()
    other = shutil.copytree(tiny_run, tmp_path / "other")
    weights = load_file(other / "weights.safetensors")
    save_file({k: v + (v.dtype.is_floating_point) for k, v in weights.items()}, other / "w")
    (other / "w").replace(other / "weights.safetensors")
    (other / "sha256.json").unlink()
    with pytest.raises(RunError, match=r"the batch begun here had explainer.run .* now"):
        run_batch(make_request(run=other), lambda done, total: None)


def test_other_images_are_refused(make_request, photos, tmp_path) -> None:
    import shutil

    copy = shutil.copytree(photos, tmp_path / "copy")
    run_batch(make_request(images=copy), lambda done, total: None)
    run_batch(make_request(images=photos), lambda done, total: None)  # the same ones, elsewhere
    (copy / "000.png").write_bytes(b"another")
    with pytest.raises(RunError, match=r"had sha256 .* now"):
        run_batch(make_request(images=copy), lambda done, total: None)
    (copy / "000.png").unlink()
    with pytest.raises(RunError, match=f"had count {COUNT}, now {COUNT - 1}"):
        run_batch(make_request(images=copy), lambda done, total: None)


@pytest.mark.parametrize("other", ["size=64", "size=32,seed=1", "size=32,difficulty=0.1"])
def test_another_planted_set_is_refused(make_request, other) -> None:
    run_batch(make_request(images="planted:size=32,images=5"), lambda done, total: None)
    run_batch(make_request(images="planted:images=5,seed=0,size=32"), lambda done, total: None)
    with pytest.raises(RunError, match=r"had sha256 .* now"):
        run_batch(make_request(images=f"planted:images=5,{other}"), lambda done, total: None)


def test_two_commands_cannot_write_the_same_result(make_request) -> None:
    request = make_request()
    request.out.mkdir()
    with (
        lock_folder(request.out),
        pytest.raises(RunError, match="another apercu process works here"),
    ):
        run_batch(request, lambda count, total: None)
    run_batch(request, lambda done, total: None)


def test_a_damaged_record_or_unit_is_named(make_request, monkeypatch) -> None:
    request = make_request(workers=Workers(readers=1, threads=1))
    finish_shard = WorkFolder.finish_shard
    monkeypatch.setattr(
        WorkFolder, "finish_shard", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run_batch(request, lambda done, total: None)
    monkeypatch.setattr(WorkFolder, "finish_shard", finish_shard)
    part = sorted(request.out.glob("_work/*/*.arrow"))[0]
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"000000.arrow: damaged; delete it"):
        run_batch(request, lambda done, total: None)
    part.unlink()
    run_batch(request, lambda done, total: None)
    assert (request.out / "manifest.json").is_file()
