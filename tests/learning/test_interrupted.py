"""A training that is killed goes on to the same result; so does a search."""

from __future__ import annotations

import json
import math
import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file

from apercu import open_classifier, train_classifier
from apercu.classifiers import Classifier
from apercu.errors import ConfigError, RunError, UntrustedError
from apercu.images.planted.source import Planted
from apercu.learning import search
from apercu.learning import train as module
from apercu.learning.search import TrialScore
from apercu.learning.settings import LEARNING, SearchSpace
from apercu.learning.splits import LearningInputs
from apercu.learning.training import LearningTraining
from apercu.own_code import hide_script

PLANTED = "planted:size=32,images=48,classes=3,difficulty=0"
SETTINGS = "schedule: {steps: 6, batch: 8, save_every: 2, averaging: 0.5}\n"


class Killed(BaseException):
    """Stands for the end of the process."""


def stop_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step = LearningTraining.training_step

    def die(self: LearningTraining, batch: Any, batch_index: int) -> Any:
        if self.global_step == steps:
            raise Killed
        return step(self, batch, batch_index)

    monkeypatch.setattr(LearningTraining, "training_step", die)


@pytest.mark.parametrize("recipes", [["gradual_unfreezing:over=1", "final_batch_norm"]])
def test_a_killed_training_ends_with_the_same_weights(
    recipes: list[str], backbone: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS)
    options: dict[str, Any] = {"recipes": recipes, "config": config, "seed": 3}
    train_classifier(PLANTED, backbone, tmp_path / "whole", **options)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_after(5, patch)  # the last checkpoint is that of step 4
        train_classifier(PLANTED, backbone, tmp_path / "killed", **options)
    with pytest.raises(RunError, match="continue it with --resume"):
        train_classifier(PLANTED, backbone, tmp_path / "killed", **options)
    del options["config"]  # the folder holds the settings
    train_classifier(PLANTED, backbone, tmp_path / "killed", resume=True, **options)
    first, second = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")
    )
    assert first.keys() == second.keys()
    assert all(first[name].equal(second[name]) for name in first)
    figures = [json.loads((tmp_path / n / "figures.json").read_text()) for n in ("whole", "killed")]
    for each in figures:
        del each["training"]
    assert figures[0] == figures[1]


def test_an_interrupted_search_goes_on_where_it_was(
    backbone: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "settings.yaml"
    config.write_text(SETTINGS + "search: {rates: [1.0e-3, 1.0e-2], layers: [frozen], folds: 2}\n")
    calls: list[tuple[float, int]] = []

    def run_trial(job: search.TrialJob) -> TrialScore:
        if len(calls) == 3:
            raise Killed
        rate = job.settings.schedule.rate
        calls.append((rate, job.fold))
        return TrialScore(figures={"auroc": rate * 10 + job.fold / 100})

    options: dict[str, Any] = {"config": config, "search": True, "seed": 1}
    monkeypatch.setattr(module, "run_trial", run_trial)
    with pytest.raises(Killed):
        train_classifier(PLANTED, backbone, tmp_path / "run", **options)
    with pytest.raises(RunError, match="a search was begun here; continue it with --resume"):
        train_classifier(PLANTED, backbone, tmp_path / "run", **options)
    calls.pop(0)
    lines: list[str] = []
    train_classifier(PLANTED, backbone, tmp_path / "run", resume=True, say=lines.append, **options)
    assert calls == [(1e-3, 1), (1e-2, 0), (1e-2, 1)]
    assert any("best of 2 trials: rate 0.01, recipes frozen (auroc 0.105" in line for line in lines)
    chosen = json.loads((tmp_path / "run" / "config.json").read_text())
    assert chosen["schedule"]["rate"] == 0.01 and chosen["recipes"] == ["frozen"]
    with pytest.raises(RunError, match="holds a finished training"):
        train_classifier(PLANTED, backbone, tmp_path / "run", resume=True, **options)


def test_trials_are_compared_on_the_folds_that_can_be_measured(tmp_path: Path) -> None:
    settings = LEARNING.presets["full"].model_copy(
        update={"search": SearchSpace(rates=(1e-3, 1e-2), layers=("full",), folds=2)}
    )
    trials = [settings.with_schedule(steps=number) for number in (1, 2)]
    jobs = [
        search.TrialJob(trial, "timm/x", LearningInputs(PLANTED), fold, tmp_path / name, 0, "cpu")
        for number, trial in enumerate(trials)
        for fold in (0, 1)
        for name in [f"{number}-{fold}"]
    ]
    for values, best in (((0.6, math.nan, 0.7, 0.1), 1), ((0.6, 0.9, 0.7, 0.1), 0)):
        for job, value in zip(jobs, values, strict=True):
            job.result.parent.mkdir(parents=True, exist_ok=True)
            job.result.write_text(TrialScore(figures={"auroc": value}).model_dump_json())
        assert search._compare_trials(settings, trials, jobs).best == best
    for job in jobs:
        job.result.write_text(TrialScore(figures={"auroc": math.nan}).model_dump_json())
    with pytest.raises(ConfigError, match="auroc cannot be measured on any fold"):
        search._compare_trials(settings, trials, jobs)


def test_a_trial_is_measured_on_images_that_it_did_not_see(
    backbone: Classifier, tmp_path: Path
) -> None:
    from apercu.learning.settings import LearningSettings
    from apercu.learning.splits import LearningInputs, split_images

    settings = LearningSettings().with_schedule(steps=2, batch=8)
    inputs = LearningInputs(PLANTED)
    every = split_images(settings, inputs, module.make_opener(backbone), 0)
    names: list[set[str]] = []
    for fold in range(3):
        parts = search.split_fold(every, 3, fold, 0)
        assert not set(parts.training.source.names) & set(parts.test.source.names)
        assert set(parts.training.source.names) | set(parts.test.source.names) == set(
            every.training.source.names
        )
        names.append(set(parts.test.source.names))
    assert set.union(*names) == set(every.training.source.names)
    job = search.TrialJob(settings, backbone, inputs, 0, tmp_path / "trial", 0, "cpu")
    score = module.run_trial(job)
    assert set(score.figures) >= {"auroc", "log_loss", "balanced_accuracy"}


def test_a_script_does_not_run_again_in_the_processes_that_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script, ran = tmp_path / "script.py", tmp_path / "ran"
    script.write_text(f"open({str(ran)!r}, 'w').close()\n")
    main = ModuleType("__main__")
    main.__file__ = str(script)
    monkeypatch.setitem(sys.modules, "__main__", main)
    spawn = multiprocessing.get_context("spawn")
    for hiding in (hide_script(), nullcontext()):
        process = spawn.Process(target=(tmp_path / "started").touch)
        with hiding:
            process.start()
        process.join()
        assert process.exitcode == 0 and (tmp_path / "started").is_file()
        assert ran.exists() is isinstance(hiding, nullcontext)
    assert sys.modules["__main__"] is main


class InMemory(Planted):
    """Images of a class that other processes can import, or that only the script has."""


def test_trials_run_in_other_processes_where_these_can_have_all_that_is_needed(
    backbone: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apercu.learning.settings import LearningSettings
    from apercu.learning.splits import LearningInputs

    scripts: list[object] = []

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int, **options: Any) -> None:
            super().__init__(count)

        def submit(self, *arguments: Any) -> Any:
            scripts.append(getattr(sys.modules["__main__"], "__file__", None))
            return super().submit(*arguments)

    monkeypatch.setattr(search, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(search, "count_cores", lambda: 2)
    settings = LearningSettings()

    def find_threads(network: Any, images: Any) -> set[int]:
        inputs = LearningInputs(images)
        jobs = [
            search.TrialJob(settings, network, inputs, fold, tmp_path, 0, "cpu")
            for fold in range(2)
        ]
        scores = search._iterate_scores(
            jobs, lambda job: TrialScore(figures={"thread": threading.get_ident()})
        )
        return {int(score.figures["thread"]) for _, score in scores}

    here, script = threading.get_ident(), sys.modules["__main__"]
    assert here not in find_threads("timm/test_resnet", PLANTED)
    assert scripts == [None, None] and sys.modules["__main__"] is script
    assert find_threads(backbone, PLANTED) == {here}
    images: Any = InMemory(size=32)
    assert here not in find_threads("timm/test_resnet", images)
    images.draw = lambda: None  # which cannot be pickled
    assert find_threads("timm/test_resnet", images) == {here}
    monkeypatch.setattr(InMemory, "__module__", "__main__")
    monkeypatch.setattr(script, "InMemory", InMemory, raising=False)
    assert find_threads("timm/test_resnet", InMemory(size=32)) == {here}


def test_trials_in_other_processes_trust_what_the_call_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pool(ThreadPoolExecutor):  # whose threads trust nothing at first, as a process does
        def __init__(self, count: int, **options: Any) -> None:
            super().__init__(1)

    monkeypatch.setattr(search, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(search, "count_cores", lambda: 2)
    (tmp_path / "small_network.py").write_text(
        "from torch import nn\n"
        "def make(classes):\n"
        "    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()\n"
        "    return nn.Sequential(*layers, nn.Linear(4, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    card = tmp_path / "card.json"
    description = {"source": "small_network:make", "options": {"classes": 3}}
    card.write_text(json.dumps(description | {"input": {"size": [32, 32]}}))

    def open_network(job: search.TrialJob) -> TrialScore:
        assert open_classifier(job.network).classes == ("class 0", "class 1", "class 2")
        return TrialScore(figures={"auroc": 0.5})

    def end(*arguments: Any, **options: Any) -> Any:
        raise Killed

    monkeypatch.setattr(module, "_train_and_measure", open_network)
    monkeypatch.setattr(module, "train_on_parts", end)
    with pytest.raises(UntrustedError, match="in Python trust=True"):
        train_classifier(PLANTED, card, tmp_path / "run", search=True)
    with pytest.raises(Killed):  # after the search
        train_classifier(PLANTED, card, tmp_path / "run", search=True, trust=True)
    chosen = json.loads((tmp_path / "run/search/choice.json").read_text())
    assert set(chosen["scores"]) == {0.5}


@pytest.mark.slow
def test_a_plain_script_searches_in_several_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import apercu\n"
        "schedule = {'steps': 2, 'batch': 8}\n"
        "search = {'rates': [1e-3, 1e-2], 'layers': ['frozen'], 'folds': 2, 'steps': 2}\n"
        "config = {'scratch': True, 'schedule': schedule, 'search': search}\n"
        f"apercu.train_classifier('{PLANTED}', 'timm/test_resnet', 'run', config=config,"
        " search=True)\n"
    )
    command = [sys.executable, script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("best of 2 trials") == 1
    assert (tmp_path / "run" / "card.json").is_file()


def test_a_killed_process_of_a_trial_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does where memory is short."""

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int, **options: Any) -> None:
            super().__init__(count)

    def end(job: search.TrialJob) -> TrialScore:
        if job.fold:
            raise BrokenProcessPool
        return TrialScore(figures={})

    monkeypatch.setattr(search, "ProcessPoolExecutor", Pool)
    monkeypatch.setattr(search, "count_cores", lambda: 2)
    settings, inputs = LEARNING.presets["full"], LearningInputs(PLANTED)
    jobs = [
        search.TrialJob(settings, "timm/x", inputs, fold, tmp_path / f"{fold}", 0, "cpu")
        for fold in range(3)
    ]
    with pytest.raises(RunError, match="trial was killed; is there memory for 2 at once") as raised:
        list(search._iterate_scores(jobs, end))
    assert "with --resume goes on" in str(raised.value)


class Command:
    """`apercu train classifier` in a process of its own, which can be killed.

    Args:
        folder: where the settings, the runs and the errors are written.
        settings: the settings in YAML.
        words: further words of the command.
    """

    def __init__(self, folder: Path, settings: str, *words: str) -> None:
        (folder / "settings.yaml").write_text(settings)
        self.folder, self.errors = folder, folder / "errors.txt"
        self.words = [sys.executable, "-m", "apercu", "train", "classifier", "--images", PLANTED]
        self.words += ["--network", "timm/test_resnet", "--config", str(folder / "settings.yaml")]
        self.words += words

    def _start(self, name: str, *more: str) -> subprocess.Popen[bytes]:
        command = [*self.words, "--out", str(self.folder / name), *more]
        with self.errors.open("wb") as errors:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def finish(self, name: str, *more: str) -> None:
        assert self._start(name, *more).wait() == 0, self.errors.read_text()

    def kill_when(self, is_time: Callable[[], bool], name: str, *more: str) -> None:
        """`kill -9` as soon as it is time; the process must not have ended before."""
        process = self._start(name, *more)
        while not is_time():
            assert process.poll() is None, self.errors.read_text()
            time.sleep(0.02)
        process.kill()
        assert process.wait() == -signal.SIGKILL

    def read_weights(self, name: str) -> bytes:
        return (self.folder / name / "weights.safetensors").read_bytes()


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    """`kill -9` in a parallel search, and again in the training; the end is the same."""
    command = Command(
        tmp_path,
        "scratch: true\n"
        "schedule: {steps: 120, batch: 8, save_every: 2, averaging: 0.5}\n"
        "search: {rates: [1.0e-3, 1.0e-2], layers: [frozen], folds: 2, steps: 10}\n",
        *("--search", "--seed", "2"),
    )
    killed = tmp_path / "killed"
    trial = killed / "search" / "trial-00-fold-0.json"
    command.kill_when(trial.exists, "killed")
    finished = trial.stat().st_mtime_ns
    command.kill_when((killed / "checkpoints" / "last.ckpt").exists, "killed", "--resume")
    assert trial.stat().st_mtime_ns == finished
    assert not (killed / "weights.safetensors").exists()
    command.finish("killed", "--resume")
    command.finish("whole")
    assert command.read_weights("killed") == command.read_weights("whole")


@pytest.mark.slow
def test_a_training_that_is_killed_twice_leaves_the_same_bytes(tmp_path: Path) -> None:
    """Early and in the middle, with a recipe that keeps a second network of its own."""
    command = Command(
        tmp_path,
        "scratch: true\nschedule: {steps: 120, batch: 8, save_every: 5, averaging: 0.9}\n",
        *("--recipe", "mean_teacher", "--recipe", "final_batch_norm", "--unlabelled", PLANTED),
    )
    killed = tmp_path / "killed"
    checkpoint = killed / "checkpoints" / "last.ckpt"
    command.kill_when(checkpoint.exists, "killed")
    saved = {checkpoint.stat().st_mtime_ns}

    def is_half_done() -> bool:
        saved.add(checkpoint.stat().st_mtime_ns)
        return len(saved) == 12

    command.kill_when(is_half_done, "killed", "--resume")
    assert not (killed / "weights.safetensors").exists()
    command.finish("killed", "--resume")
    command.finish("whole")
    assert command.read_weights("killed") == command.read_weights("whole")
    for name in ("card.json", "predictions.csv"):
        assert (killed / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
