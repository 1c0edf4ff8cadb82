"""A command that is killed goes on where it stood, and leaves the same bytes."""

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
from apercu.deploy.batch.lock import lock_folder
from apercu.deploy.batch.work_folder import Plan, WorkFolder
from apercu.deploy.inference.torch_engine import TorchEngine
from apercu.errors import RunError

from .conftest import COUNT, bytes_of

SLOWED = """
import sys, time
from pathlib import Path
from apercu.cli import main
from apercu.deploy.inference.torch_engine import TorchEngine

answer = TorchEngine.__call__
def slowly(self, images, target):
    time.sleep(0.3)
    return answer(self, images, target)
TorchEngine.__call__ = slowly
main(sys.argv[1:])
"""


def _begun(run: Path, photos: Path, out: Path) -> subprocess.Popen[bytes]:
    """A process of its own that explains slowly."""
    words = ["batch", run, photos, "--out", out, "--shard", 10, "--batch", 2, "--threads", 1]
    command = [sys.executable, "-c", SLOWED, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _parts(out: Path) -> int:
    return len(list(out.glob("_work/*/*.arrow")))


def _shards(out: Path) -> int:
    return len(list(out.glob("_work/*.json")))


MOMENTS: dict[str, Callable[[Path], bool]] = {
    "within the first shard": lambda out: _parts(out) >= 2,
    "one shard is finished": lambda out: _shards(out) >= 1,
    "within the last shard": lambda out: _shards(out) >= 2,
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_and_begun_again_it_leaves_the_same_bytes(
    moment, explained, order, tiny_run, photos, tmp_path, monkeypatch
) -> None:
    whole, out = explained(out=tmp_path / "whole", batch=2), tmp_path / "killed"
    process = _begun(tiny_run, photos, out)
    try:
        until = time.monotonic() + 120
        while not MOMENTS[moment](out) and process.poll() is None and time.monotonic() < until:
            time.sleep(0.01)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.communicate()
    kept = _kept(out)
    assert 0 < kept < COUNT
    assert not (out / "manifest.json").exists()
    asked = _counted(monkeypatch)
    outcome = run_batch(order(out=out, batch=2), lambda done, total: None)
    assert outcome.explained == COUNT - kept
    assert asked["images"] <= outcome.explained
    assert bytes_of(out) == bytes_of(whole)


def _kept(out: Path) -> int:
    """Images whose rows are on the disk."""
    desk, plan = WorkFolder(out), Plan(COUNT, 10, 2)
    left = [shard for shard in range(plan.shard_count) if desk.read_record(shard) is None]
    units = [unit for shard in left for unit in plan.split_into_units(shard)]
    return COUNT - sum(len(unit) for unit in units if not desk.has_unit(unit))


def _counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts the images that the explainer is asked about."""
    counts: Counter[str] = Counter()
    answer = TorchEngine.__call__

    def counting(self: TorchEngine, images, target: int):
        counts["images"] += len(images)
        return answer(self, images, target)

    monkeypatch.setattr(TorchEngine, "__call__", counting)
    return counts


def test_what_a_killed_process_was_writing_is_swept_away(order, explained, tmp_path) -> None:
    whole = bytes_of(explained(out=tmp_path / "whole"))
    out = order().out
    (out / "maps").mkdir(parents=True)
    (out / "maps" / ".00000000.parquet.0123.part").write_bytes(b"half")
    explained()
    assert bytes_of(out) == whole


def test_a_finished_result_is_left_as_it_is(explained, order, monkeypatch) -> None:
    before = bytes_of(explained())
    asked = _counted(monkeypatch)
    outcome = run_batch(order(), lambda done, total: None)
    assert (outcome.explained, asked["images"]) == (0, 0)
    assert outcome.manifest["images"] == COUNT
    assert bytes_of(order().out) == before


@pytest.mark.parametrize("harm", [Path.unlink, lambda path: path.write_bytes(b"PAR1")])
def test_a_finished_result_that_lacks_a_file_is_told(harm, explained, order) -> None:
    explained()
    harm(order().out / "maps" / "00000001.parquet")
    with pytest.raises(RunError, match=r"00000001\.parquet: missing or damaged, though manifest"):
        run_batch(order(), lambda done, total: None)


def test_what_is_written_halfway_is_written_again(explained, order, tmp_path, monkeypatch) -> None:
    """Ends between each two steps that leave a trace on the disk."""
    whole = bytes_of(explained(out=tmp_path / "whole"))
    keep, finish = WorkFolder.write_unit, WorkFolder.finish_shard
    for step in range(11):
        out, left = tmp_path / f"{step}", [step]

        def ending(method, left=left):
            def call(self, *given):
                if left[0] == 0:
                    raise KeyboardInterrupt
                left[0] -= 1
                return method(self, *given)

            return call

        monkeypatch.setattr(WorkFolder, "keep", ending(keep))
        monkeypatch.setattr(WorkFolder, "finish", ending(finish))
        asked = order(out=out)
        if step < 10:
            with pytest.raises(KeyboardInterrupt):
                run_batch(asked, lambda done, total: None)
        monkeypatch.setattr(WorkFolder, "keep", keep)
        monkeypatch.setattr(WorkFolder, "finish", finish)
        run_batch(asked, lambda done, total: None)
        assert bytes_of(out) == whole, step


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"target": "dots"}, "had target top, now dots"),
        ({"level": 0.3}, "had level 0.5, now 0.3"),
        ({"map": "uint8"}, "had map png, now uint8"),
        ({"batch": 5}, "had batch 4, now 5"),
        ({"shard": 12}, "had shard 10, now 12"),
        ({"limit": 3}, "had limit None, now 3"),
    ],
)
def test_other_settings_are_refused(explained, order, other, words) -> None:
    explained()
    with pytest.raises(RunError, match=words):
        run_batch(order(**other), lambda done, total: None)


def test_another_explainer_is_refused(explained, order, tiny_run, tmp_path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    explained()
    other = shutil.copytree(tiny_run, tmp_path / "other")
    weights = load_file(other / "weights.safetensors")
    save_file({k: v + (v.dtype.is_floating_point) for k, v in weights.items()}, other / "w")
    (other / "w").replace(other / "weights.safetensors")
    with pytest.raises(RunError, match=r"had explainer run .* now"):
        run_batch(order(run=other), lambda done, total: None)


def test_other_images_are_refused(order, photos, tmp_path) -> None:
    import shutil

    copy = shutil.copytree(photos, tmp_path / "copy")
    run_batch(order(images=copy), lambda done, total: None)
    run_batch(order(images=photos), lambda done, total: None)  # the same ones, elsewhere
    (copy / "000.png").write_bytes(b"another")
    with pytest.raises(RunError, match=r"had images .* now"):
        run_batch(order(images=copy), lambda done, total: None)
    (copy / "000.png").unlink()
    with pytest.raises(RunError, match=f"had count {COUNT}, now {COUNT - 1}"):
        run_batch(order(images=copy), lambda done, total: None)


@pytest.mark.parametrize("other", ["size=64", "size=32,seed=1", "size=32,difficulty=0.1"])
def test_another_planted_set_is_refused(order, other) -> None:
    run_batch(order(images="planted:size=32,images=5"), lambda done, total: None)
    run_batch(order(images="planted:images=5,seed=0,size=32"), lambda done, total: None)
    with pytest.raises(RunError, match=r"had images .* now"):
        run_batch(order(images=f"planted:images=5,{other}"), lambda done, total: None)


def test_two_commands_do_not_work_on_one_result(order) -> None:
    asked = order()
    asked.out.mkdir()
    with lock_folder(asked.out), pytest.raises(RunError, match="another apercu batch works here"):
        run_batch(asked, lambda done, total: None)
    run_batch(asked, lambda done, total: None)


def test_a_damaged_record_or_unit_is_named(order, monkeypatch) -> None:
    asked = order(crew=Workers(readers=1, threads=1))
    finish = WorkFolder.finish_shard
    monkeypatch.setattr(
        WorkFolder, "finish", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt)
    )
    with pytest.raises(KeyboardInterrupt):
        run_batch(asked, lambda done, total: None)
    monkeypatch.setattr(WorkFolder, "finish", finish)
    part = sorted(asked.out.glob("_work/*/*.arrow"))[0]
    content = part.read_bytes()
    part.write_bytes(content[: len(content) // 2])
    with pytest.raises(RunError, match=r"000000.arrow: damaged; delete it"):
        run_batch(asked, lambda done, total: None)
    part.unlink()
    run_batch(asked, lambda done, total: None)
    assert (asked.out / "manifest.json").is_file()
