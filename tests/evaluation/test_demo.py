"""The demo in a folder: an interrupted one goes on, a finished one is kept, an old one goes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from apercu.evaluation import demo
from apercu.evaluation.demo import Demo
from apercu.evaluation.demo_classifier import ClassifierTraining
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.methods import CentreBox, TrueBox

WEIGHTS = ("classifier/weights.safetensors", "mask/weights.safetensors")
SCHEDULE = {"steps": 6, "batch": 8, "save_every": 1}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A demo of seconds, which keeps every step."""
    monkeypatch.setattr(demo, "TRAIN_IMAGES", 60)
    monkeypatch.setattr(demo, "TEST_IMAGES", 24)
    monkeypatch.setattr(demo, "CLASSIFIER_TRAINING", ClassifierTraining(2, 10))
    settings = MASK_PRESETS.parse({"preset": "light", "schedule": SCHEDULE})
    monkeypatch.setattr(demo, "MASK_SETTINGS", settings)
    monkeypatch.setattr(demo, "METHODS", {"centre_box": CentreBox(), "true_box": TrueBox()})
    monkeypatch.setattr(demo, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(demo, "is_installed", lambda extra: False)


class Run:
    """One call of the demo: what it did, and where it was stopped."""

    def __init__(self, folder: Path, stop_at: tuple[str, int] | None = None, seed: int = 0) -> None:
        self.stop_at = stop_at
        self.steps: dict[str, list[int]] = {}
        self.lines: list[str] = []
        if stop_at is None:
            self.results = Demo(folder, seed, "cpu", self.report, self.lines.append).run()
        else:
            with pytest.raises(KeyboardInterrupt):
                Demo(folder, seed, "cpu", self.report, self.lines.append).run()

    def report(self, name: str, done: int, total: int) -> None:
        self.steps.setdefault(name, []).append(done)
        if (name, done) == self.stop_at:
            raise KeyboardInterrupt


def read_weights(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in WEIGHTS]


def test_an_interrupted_demo_goes_on_with_the_same_result(tmp_path: Path) -> None:
    whole = Run(tmp_path / "whole")
    assert whole.steps["classifier"] == list(range(13))

    parts = tmp_path / "parts"
    Run(parts, ("classifier", 7))
    second = Run(parts, ("training steps", 4))
    assert second.steps["classifier"] == list(range(6, 13))  # the 7th was not kept any more
    config = json.loads((parts / "mask/config.json").read_text())
    config["schedule"]["save_every"] = 1000  # which does not change the result
    (parts / "mask/config.json").write_text(json.dumps(config))
    third = Run(parts)
    assert "classifier" not in third.steps
    assert third.steps["training steps"][0] >= 3
    assert read_weights(parts) == read_weights(tmp_path / "whole")
    assert third.results.comparison.rows == whole.results.comparison.rows
    assert not (parts / demo.STEPS).exists()

    plan = json.loads((parts / demo.PLAN).read_text())
    del plan["lessons"]["tightness"]  # as a version before this setting wrote it
    plan["mask"]["schedule"]["save_every"] = 1000
    (parts / demo.PLAN).write_text(json.dumps(plan))
    fourth = Run(parts)
    assert not {"classifier", "training steps"} & set(fourth.steps)
    assert any(line.startswith("mask explainer: trained in") for line in fourth.lines)


def test_the_demo_of_other_settings_starts_over_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Run(tmp_path, ("training steps", 3))
    (tmp_path / "mine.txt").write_text("kept")
    monkeypatch.setattr(demo, "CLASSIFIER_TRAINING", replace(demo.CLASSIFIER_TRAINING, epochs=1))
    again = Run(tmp_path, ("training steps", 1))
    assert again.lines[0] == (
        f"{tmp_path}: holds the demo of another version, with other settings; starts over"
    )
    assert again.steps["classifier"] == list(range(7))
    assert again.steps["training steps"][0] == 0
    assert json.loads((tmp_path / demo.PLAN).read_text())["lessons"]["epochs"] == 1
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_the_steps_of_another_seed_are_not_continued(tmp_path: Path) -> None:
    Run(tmp_path, ("classifier", 7))
    with pytest.raises(demo.RunError, match=r"had seed 0, now 1; use the same, or choose another"):
        Demo(tmp_path, 1, "cpu", lambda *_: None, lambda line: None).run()
