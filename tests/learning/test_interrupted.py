"""A training that is killed goes on to the same result; so does a search."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from apercu import train_classifier
from apercu.classifiers import Classifier
from apercu.errors import RunError
from apercu.learning import search
from apercu.learning import train as module
from apercu.learning.search import TrialScore
from apercu.learning.training import LearningTraining

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


@pytest.mark.slow
def test_processes_that_are_killed_lose_nothing(tmp_path: Path) -> None:
    """`kill -9` in a parallel search, and again in the training; the end is the same."""
    (tmp_path / "settings.yaml").write_text(
        "scratch: true\n"
        "schedule: {steps: 120, batch: 8, save_every: 2, averaging: 0.5}\n"
        "search: {rates: [1.0e-3, 1.0e-2], layers: [frozen], folds: 2, steps: 10}\n"
    )
    words = ["train", "classifier", "--images", PLANTED, "--network", "timm/test_resnet"]
    words += ["--config", str(tmp_path / "settings.yaml"), "--search", "--seed", "2"]

    def start(name: str, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "apercu", *words, "--out", str(tmp_path / name), *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def kill_when(process: subprocess.Popen[bytes], path: Path) -> None:
        while not path.exists():
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.05)
        process.kill()
        process.wait()

    killed = tmp_path / "killed"
    kill_when(start("killed"), killed / "search" / "trial-00-fold-0.json")
    finished = (killed / "search" / "trial-00-fold-0.json").stat().st_mtime_ns
    kill_when(start("killed", "--resume"), killed / "checkpoints" / "last.ckpt")
    assert (killed / "search" / "trial-00-fold-0.json").stat().st_mtime_ns == finished
    assert not (killed / "weights.safetensors").exists()
    for name, more in (("killed", ["--resume"]), ("whole", [])):
        process = start(name, *more)
        assert process.wait() == 0, process.communicate()[1].decode()
    first, second = (
        load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "killed")
    )
    assert all(first[name].equal(second[name]) for name in first)
