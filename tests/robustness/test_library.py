"""The names of `apercu.robustness` and `apercu.pretraining`, which do what the commands do."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import apercu.pretraining
import apercu.robustness
from apercu import open_classifier
from apercu.images import open_images
from apercu.methods import Cam
from apercu.robustness import (
    DetectionBenchmark,
    StressPlan,
    detect_attacks,
    expand_budgets,
    parse_attack,
    parse_detectors,
    run_stress_test,
)
from apercu.robustness.detection import MethodMapFeatures


@pytest.mark.parametrize("module", [apercu.robustness, apercu.pretraining])
def test_every_public_name_is_there(module: ModuleType) -> None:
    for name in module.__all__:
        assert getattr(module, name) is not None
        assert name in dir(module)
    with pytest.raises(AttributeError, match=f"module '{module.__name__}' has no attribute 'nam'"):
        _ = module.nam


def test_a_stress_test_from_python(tiny_card: Path, tmp_path: Path) -> None:
    plan = StressPlan(attacks=("fgsm",), filters=("none", "bit_depth"), epsilons=(8 / 255,))
    source = open_images("planted:size=32,images=6,classes=3")
    results = run_stress_test(open_classifier(tiny_card), source, tmp_path, plan)
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [row["value"] for row in stored["rows"]] == [row.value for row in results.rows]
    assert {row.filter for row in results.rows} == {"none", "bit_depth"}
    assert (tmp_path / "report.html").is_file()


def test_a_detection_from_python(tiny_card: Path, tmp_path: Path) -> None:
    classifier = open_classifier(tiny_card)
    benchmark = DetectionBenchmark(
        classifier,
        open_images("planted:size=32,images=60,classes=3"),
        {"cam": MethodMapFeatures(classifier, Cam())},
        parse_detectors("mahalanobis", 0),
        expand_budgets({"fgsm": parse_attack("fgsm")}, (200 / 255,)),
    )
    rows = detect_attacks(benchmark, tmp_path)
    assert {(row.look, row.detector) for row in rows} == {("cam", "mahalanobis")}
    stored = json.loads((tmp_path / "detection.json").read_text())
    assert [row["value"] for row in stored["rows"]] == [row.value for row in rows]
