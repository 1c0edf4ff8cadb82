"""One record of what a folder was begun with: new, resumed, finished, refused, and locked."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import BaseModel

from apercu.errors import InputError, RunError
from apercu.evaluation.demo import DemoPlan
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.mask.settings import MaskSettings
from apercu.io import write_file
from apercu.pretraining.settings import PretrainSettings
from apercu.robustness.defences.settings import DefenceSettings
from apercu.run_record import LOCK, RunRecord, RunState, lock_folder
from apercu.training.record import ORDER, WEIGHTS, TrainingContext, make_record


class Plan(BaseModel):
    """What a result may depend on."""

    seed: int = 0
    shown: str = "as typed"
    nested: dict[str, int] = {"steps": 2}


def plain(folder: Path, seed: int = 0) -> RunRecord:
    return RunRecord(folder, {"plan.json": Plan(seed=seed)}, "batch", finished_by="done")


def training(settings: BaseModel) -> Callable[[Path, int], RunRecord]:
    def record(folder: Path, seed: int = 0) -> RunRecord:
        order = TrainingContext(classifier="abc", images="planted", count=3, seed=seed)
        return make_record(folder, order, settings)  # type: ignore[arg-type]

    return record


def demo(folder: Path, seed: int = 0) -> RunRecord:
    plan = DemoPlan(seed=seed, images=2, tested=1, lessons={"rate": 1e-3}, mask={"a": {"b": 1}})
    return RunRecord(folder, {"demo.json": plan}, "demo")


RECORDS = {
    "plain": plain,
    "demo": demo,
    "mask": training(MaskSettings()),
    "latent": training(LatentSettings()),
    "defence": training(DefenceSettings()),
    "pretraining": training(PretrainSettings()),
}


@pytest.fixture(params=RECORDS)
def record(request: pytest.FixtureRequest) -> Callable[..., RunRecord]:
    return RECORDS[request.param]


def test_new_then_resumed_with_the_same(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    with record(tmp_path / "run").begin() as state:
        assert state is RunState.NEW
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    with record(tmp_path / "run").begin(resume=True) as state:
        assert state is RunState.RESUMED
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}


def test_other_values_are_refused_in_one_sentence(
    record: Callable[..., RunRecord], tmp_path: Path
) -> None:
    with record(tmp_path).begin():
        pass
    match = r"the \w+ begun here had seed 0, now 1; use the same, or choose another --out$"
    with pytest.raises(RunError, match=match), record(tmp_path, 1).begin():
        raise AssertionError("it began")


def test_a_damaged_record_is_refused(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    with record(tmp_path).begin():
        pass
    name = next(iter(record(tmp_path).parts))
    (tmp_path / name).write_text("{")
    with pytest.raises(RunError, match=f"{name}: cannot be read"), record(tmp_path).begin():
        pass


def test_two_at_once(record: Callable[..., RunRecord], tmp_path: Path) -> None:
    with (
        record(tmp_path).begin(),
        pytest.raises(RunError, match="another apercu process works here"),
        record(tmp_path).begin(),
    ):
        pass
    with record(tmp_path).begin():
        pass  # the first one has let go


def test_nested_values_are_named_with_dots(tmp_path: Path) -> None:
    with RunRecord(tmp_path, {"plan.json": Plan()}, "batch").begin():
        pass
    other = RunRecord(tmp_path, {"plan.json": Plan(nested={"steps": 3})}, "batch")
    with pytest.raises(RunError, match=r"had nested\.steps 2, now 3;"), other.begin():
        pass


def test_what_is_ignored_may_differ(tmp_path: Path) -> None:
    with RunRecord(tmp_path, {"plan.json": Plan()}, "batch").begin():
        pass
    parts = {"plan.json": Plan(shown="typed otherwise")}
    with RunRecord(tmp_path, parts, "batch", ignored=frozenset({"shown"})).begin() as state:
        assert state is RunState.RESUMED
    with pytest.raises(RunError, match="had shown as typed"):
        RunRecord(tmp_path, parts, "batch").begin().__enter__()


def test_a_finished_result_is_taken_up(tmp_path: Path) -> None:
    with plain(tmp_path).begin():
        (tmp_path / "done").touch()
    with plain(tmp_path).begin() as state:
        assert state is RunState.FINISHED


def test_a_training_goes_on_only_on_request_and_never_when_finished(tmp_path: Path) -> None:
    record = training(MaskSettings())
    with record(tmp_path, 0).begin(resume=False) as state:
        assert state is RunState.NEW
    with pytest.raises(RunError, match="continue it with --resume"):
        record(tmp_path, 0).begin(resume=False).__enter__()
    (tmp_path / WEIGHTS).touch()
    with pytest.raises(RunError, match="holds a finished training"):
        record(tmp_path, 0).begin(resume=True).__enter__()


def test_a_record_of_before_a_value_was_known_takes_its_default(tmp_path: Path) -> None:
    old = '{"classifier": "abc", "images": "planted", "count": 3, "seed": 0}'
    (tmp_path / ORDER).write_text(old)
    with training(MaskSettings())(tmp_path, 0).begin() as state:
        assert state is RunState.RESUMED
    assert (tmp_path / ORDER).read_text() == old


def test_a_process_that_lightning_started_takes_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with plain(tmp_path).begin():
        monkeypatch.setenv("LOCAL_RANK", "1")
        with plain(tmp_path, seed=1).begin():
            pass
    assert '"seed": 0' in (tmp_path / "plan.json").read_text()


def test_refused_work_leaves_a_record_only_where_it_wrote_something(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(InputError), plain(run).begin():
        raise InputError("no images")
    assert not run.exists()
    with pytest.raises(KeyboardInterrupt), plain(run).begin():
        raise KeyboardInterrupt
    assert (run / "plan.json").is_file()
    with pytest.raises(InputError), plain(run).begin():
        raise InputError("of a later attempt")
    assert (run / "plan.json").is_file()
    other = tmp_path / "other"
    with pytest.raises(InputError), plain(other).begin():
        write_file(other / "errors.csv", b"")
        raise InputError("none could be read")
    assert (other / "plan.json").is_file()


HOLDER = """
import os, sys, time
from pathlib import Path
from apercu.run_record import lock_folder
with lock_folder(Path(sys.argv[1])):
    if os.fork() == 0:
        time.sleep(30)  # as a loader of data does, which outlives its trainer
    print("locked", flush=True)
    time.sleep(30)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such lock")
def test_another_process_is_kept_out_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match="another apercu process works here"):
            lock_folder(tmp_path).__enter__()
        holder.kill()
        holder.wait()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                with lock_folder(tmp_path):
                    break
            except RunError:
                time.sleep(0.05)
        else:
            raise AssertionError("the lock outlives its process")
        holder.stdout.close()
    assert (tmp_path / LOCK).is_file()
