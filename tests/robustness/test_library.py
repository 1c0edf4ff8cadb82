"""The names of `apercu.robustness` and `apercu.pretraining`, which do what the commands do."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest

import apercu.pretraining
import apercu.robustness
from apercu import open_classifier
from apercu.errors import ClassifierError, ConfigError, ImagesError, RunError
from apercu.images import open_images
from apercu.log import redirect_warnings
from apercu.methods import Cam, Gradient
from apercu.methods.base import Method
from apercu.render import to_image
from apercu.robustness import (
    DetectionBenchmark,
    StressPlan,
    detect_attacks,
    expand_budgets,
    parse_attack,
    parse_detectors,
    run_stress_test,
    train_defence,
)
from apercu.robustness.detection import MethodMapFeatures
from apercu.robustness.detection.benchmark import DetectionRows
from apercu.robustness.plan import adapt_plan


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
    # a later plan writes its own report; it says what is no longer there
    lines: list[str] = []
    with redirect_warnings(lines.append):
        later = StressPlan(attacks=("pgd:steps=2",), filters=("none",), epsilons=(8 / 255,))
        run_stress_test(open_classifier(tiny_card), source, tmp_path, later)
        run_stress_test(open_classifier(tiny_card), source, tmp_path, later)
    assert lines == [
        f"{tmp_path}: these results leave out fgsm, bit_depth of an earlier call; name them too "
        "to have all together, which computes nothing again"
    ]
    (tmp_path / "results.json").write_text('{"cost": []}')
    with pytest.raises(RunError, match="results of another command; choose another --out"):
        run_stress_test(open_classifier(tiny_card), source, tmp_path, later)


def test_a_stress_test_is_named_by_specs(tiny_card: Path, tmp_path: Path) -> None:
    black_box = open_classifier(
        lambda images: images.mean((2, 3)), size=32, mean=[0] * 3, std=[1] * 3, classes=[*"abc"]
    )
    source = "planted:size=32,images=2,classes=3"
    plan = StressPlan(attacks=("fgsm",), epsilons=(8 / 255,))
    rows = run_stress_test(tiny_card, source, str(tmp_path / "named"), plan).rows
    opened = run_stress_test(
        open_classifier(tiny_card), open_images(source), tmp_path / "open", plan
    )
    assert rows == opened.rows
    with pytest.raises(ClassifierError, match=r"fgsm need gradients, .* use sparse_evo"):
        run_stress_test(black_box, source, tmp_path / "box", plan)
    with pytest.raises(ImagesError, match="no such file or folder of images"):
        run_stress_test(black_box, "nowhere", tmp_path / "box")
    assert adapt_plan(StressPlan(), black_box).attacks == ("sparse_evo",)
    named = StressPlan(attacks=StressPlan().attacks)
    with pytest.raises(ClassifierError, match="fgsm, i_fgsm, pgd need gradients"):
        adapt_plan(named, black_box)


def test_a_stress_test_leaves_out_what_cannot_be_read(tiny_card: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "images", tmp_path / "out"
    folder.mkdir()
    for index, item in enumerate(open_images("planted:size=32,images=4,classes=3")):
        to_image(item.picture).save(folder / f"{index}.png")
    good = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(good[:60])
    plan = StressPlan(attacks=("fgsm",), filters=("none",), epsilons=(8 / 255,), limit=3)
    classifier, lines = open_classifier(tiny_card), list[str]()

    def test() -> str:
        lines.clear()
        with redirect_warnings(lines.append):
            results = run_stress_test(classifier, open_images(folder), out, plan)
        assert results.about["limit"] == 3
        return (out / "report.html").read_text("utf-8")

    text = "left out, as they cannot be used: 2.png"
    for _ in range(2):  # the second call goes on in the folder
        assert text in test()
        (line,) = lines
        assert "1 of 4 images cannot be read and are left out" in line and "2.png: dam" in line
    (folder / "2.png").write_bytes(good)
    assert text not in test()
    (line,) = lines
    assert line.startswith(f"{out}: other images cannot be read than in the earlier call")


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


def test_a_later_detection_keeps_the_rows_of_earlier_ones(tiny_card: Path, tmp_path: Path) -> None:
    classifier = open_classifier(tiny_card)

    def run(detectors: str, method: Method, seed: int = 0) -> DetectionRows:
        benchmark = DetectionBenchmark(
            classifier,
            open_images("planted:size=32,images=60,classes=3"),
            {"cam": MethodMapFeatures(classifier, method)},
            parse_detectors(detectors, 0),
            expand_budgets({"fgsm": parse_attack("fgsm")}, (200 / 255,)),
            seed=seed,
        )
        return detect_attacks(benchmark, tmp_path)

    first = run("mahalanobis", Cam())
    rows = run("one_class_svm", Cam())
    path = tmp_path / "detection.json"
    stored = json.loads(path.read_text())["rows"]
    assert [row["value"] for row in stored] == [row.value for row in rows]
    assert list(dict.fromkeys(row.detector for row in rows)) == ["mahalanobis", "one_class_svm"]
    assert set(first) <= set(rows) and len(rows) == 2 * len(first)
    with pytest.raises(RunError, match="had seed 0, now 1; use the same, or choose another --out"):
        run("mahalanobis", Cam(), seed=1)
    assert json.loads(path.read_text())["rows"] == stored
    lines: list[str] = []
    with redirect_warnings(lines.append):
        rows = run("mahalanobis", Gradient())  # the look has another method
    assert {row.detector for row in rows} == {"mahalanobis"}
    assert {row.value for row in rows} != {row.value for row in first}
    assert [line.rpartition(": ")[2] for line in lines] == ["look cam"]


def test_a_defence_is_trained_by_names(tiny_card: Path, tmp_path: Path) -> None:
    images, lines = "planted:size=32,images=12,classes=3", []
    run = tmp_path / "run"
    defended = train_defence(
        str(tiny_card),
        images,
        str(run),
        config={"preset": "standard"},
        steps=1,
        batch=2,
        poison="badnets:targets=1",
        poison_fraction=0.25,
        say=lines.append,
    )
    assert (defended.folder, defended.test_filters) == (run, ("none",))
    assert defended.classifier.fingerprint == open_classifier(run).fingerprint
    assert {"honest", "hard", "honest_before", "hard_before", "steps"} <= set(defended.facts)
    assert len(json.loads((run / "poison.json").read_text())["poisoned"]) == 3
    with pytest.raises(RunError, match="resume"):
        train_defence(tiny_card, images, run, steps=1, batch=2, poison="badnets:targets=1")
    for options, error, words in (
        ({"config": "hybird"}, ConfigError, "did you mean hybrid"),
        ({"poison": "badnet"}, ConfigError, "did you mean badnets"),
        ({"poison": "badnets:targets=7"}, ConfigError, "7"),
        ({"poison": "badnets", "poison_fraction": 1.0}, ConfigError, "between 0 and 1"),
        ({"seed": -1}, ConfigError, "seed"),
        ({"device": "gpu"}, ConfigError, "device"),
    ):
        with pytest.raises(error, match=words):
            train_defence(tiny_card, images, tmp_path / "refused", **options)
    assert not (tmp_path / "refused").exists()
