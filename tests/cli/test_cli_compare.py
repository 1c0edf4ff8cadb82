from __future__ import annotations

import inspect
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import apercu.methods
import apercu.metrics
from apercu.classifiers import open_classifier
from apercu.cli.terminal import show_ranking
from apercu.errors import ConfigError, RunError
from apercu.evaluation.results import ComparisonKey, ComparisonResults, MetricRow
from apercu.images import Planted
from apercu.methods import (
    Augmented,
    CentreBox,
    GradCam,
    Gradient,
    MeaningfulPerturbation,
    Method,
    Mfpp,
    Occlusion,
    Rise,
    Smoothed,
    SmoothGrad,
    TrainedMethod,
    TrueBox,
)
from apercu.methods.registry import (
    METHODS,
    apply_seed,
    find_allowed_methods,
    parse_methods,
)

SPEC = "planted:size=32,images=8,classes=3,split=test"


def _final(kind: type) -> set[type]:
    below = kind.__subclasses__()
    return {subclass for subclass in below if not inspect.isabstract(subclass)}.union(
        *map(_final, below)
    )


def test_every_final_method_has_a_name_on_the_command_line() -> None:
    of_package = {method for method in _final(Method) if method.__module__.startswith("apercu.")}
    assert set(METHODS.values()) == of_package | {TrueBox}
    exported = {getattr(apercu.methods, name) for name in apercu.methods.__all__}
    assert set(METHODS.values()) <= exported
    assert TrainedMethod not in METHODS.values()


def test_names_are_the_snake_case_of_the_class() -> None:
    short = {"grad_cam_pp": "gradcamplusplus", "random": "randommap"}
    for name, kind in METHODS.items():
        assert short.get(name, name.replace("_", "")) == kind.__name__.lower()


def test_methods_with_settings() -> None:
    assert parse_methods("meaningful_perturbation:aim=full,steps=9") == {
        "meaningful_perturbation:aim=full,steps=9": MeaningfulPerturbation("full", 9)
    }
    assert parse_methods("mfpp:levels=5/9") == {"mfpp:levels=5/9": Mfpp(levels=(5, 9))}
    methods = parse_methods("gradient, occlusion:window=0.5,stride=0.25,grad_cam:layer=blocks.2")
    assert methods == {
        "gradient": Gradient(),
        "occlusion:window=0.5,stride=0.25": Occlusion(window=0.5, stride=0.25),
        "grad_cam:layer=blocks.2": GradCam(layer="blocks.2"),
    }


def test_any_method_can_be_wrapped_and_a_trained_explainer_too() -> None:
    run = TrainedMethod(
        lambda images, targets: images[:, 0], cache_key="mask of a run", training_seconds=60.0
    )
    text = "grad_cam:augmented=4,rise:masks=50,smoothed=0.1,augmented=2,mask:smoothed=0.05"
    assert parse_methods(text, {"mask": run}) == {
        "grad_cam:augmented=4": Augmented(GradCam(), 4),
        "rise:masks=50,smoothed=0.1,augmented=2": Smoothed(Augmented(Rise(masks=50), 2), 0.1),
        "mask:smoothed=0.05": Smoothed(run, 0.05),
    }
    runs = {"mask:run=a": run}
    assert parse_methods("mask:run=a,augmented=3", runs) == {
        "mask:run=a,augmented=3": Augmented(run, 3)
    }


def test_the_seed_reaches_what_draws_at_random_unless_one_was_typed() -> None:
    text = "rise:masks=9,rise:masks=9,seed=3,grad_cam,true_box,smooth_grad:augmented=2"
    assert apply_seed(parse_methods(text), 7) == {
        "rise:masks=9": Rise(masks=9, seed=7),
        "rise:masks=9,seed=3": Rise(masks=9, seed=3),
        "grad_cam": GradCam(),
        "true_box": TrueBox(),
        "smooth_grad:augmented=2": Augmented(SmoothGrad(seed=7), 2, seed=7),
    }


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("true_box:augmented=4", "true_box knows the truth and takes no augmented"),
        ("gradient:augmented=few", "expected a number for gradient:augmented, got 'few'"),
        ("gradient:augmented=0", "augmented: expected copies of at least 1, got 0"),
        ("mask:augmented=4", "expected some of .*, got mask"),
        ("gradcam", "got gradcam; did you mean grad_cam"),
        ("occlusion:windw=1", "occlusion has no setting windw, .*; did you mean window"),
        ("gradient:a=1", "gradient has no setting a, expected none"),
        ("occlusion:batch=many", "expected int for occlusion:batch, got 'many'"),
        ("centre_box:area=3", r"expected area in \(0, 1\]"),
        ("meaningful_perturbation:aim=all", "expected one of destroying, sufficient, full for"),
        ("mfpp:levels=5-9", "expected numbers with / between them for mfpp:levels"),
        ("excitation_backprop:contrastive=yes", "expected true or false for"),
        ("centre_box:area=0.3,area=0.6", "centre_box has area twice, expected once"),
        ("gradient:smoothed=0.1,smoothed=0.2", "gradient has smoothed twice"),
        ("smooth_grad:noise=inf", "expected finite noise above 0, got inf"),
        ("gradient:smoothed=inf", "expected finite sigma above 0, got inf"),
        (" , ", "got none"),
    ],
)
def test_misspelt_methods(text: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_methods(text)


def test_only_what_a_black_box_allows(tiny_card: Path) -> None:
    classifier = open_classifier(tiny_card)
    methods = find_allowed_methods(classifier, Planted(size=32))
    for_transformers = {"attention_rollout", "attention_relevance"}
    fast = [name for name in METHODS if not METHODS[name].slow]
    assert list(methods) == [name for name in fast if name not in for_transformers]
    black = open_classifier(tiny_card)
    black.module, black.differentiable = None, False
    methods = find_allowed_methods(black, Planted(size=32))
    inside = {"gradients", "layers"}
    expected = [
        n for n, kind in METHODS.items() if not kind.slow and not inside & set(kind().needs)
    ]
    assert list(methods) == expected and "occlusion" in expected and "gradient" not in expected
    assert methods["centre_box"] == CentreBox()


def test_a_comparison_leaves_results_and_a_report(apercu, tiny_card, tiny_run, tmp_path) -> None:
    again = tmp_path / "again"
    shutil.copytree(tiny_run, again)
    out = tmp_path / "table"
    words = ["compare", "--classifier", tiny_card, "--images", SPEC, "--device", "cpu"]
    words += ["--explainer", tiny_run, "--explainer", again, "--out", out]
    words += ["--methods", "gradient,true_box", "--metrics", "iou,localisation_error"]
    result = apercu(*words)
    assert result.code == 0
    assert "gradient: 8 of 8" in result.err.splitlines()
    results = json.loads((out / "results.json").read_text())
    names = {row["explainer"] for row in results["rows"]}
    assert {"mask:run=tiny", "mask:run=again", "gradient", "true_box"} <= names
    assert {row["metric"] for row in results["rows"]} == {"iou", "localisation_error"}
    assert results["fingerprint"] == open_classifier(tiny_card).fingerprint
    assert results["limit"] == 8
    values = {
        name: [row["value"] for row in results["rows"] if row["explainer"] == name]
        for name in ("mask:run=tiny", "mask:run=again")
    }
    assert values["mask:run=tiny"] == values["mask:run=again"]
    assert "gradient" in result.out
    assert "gradient" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--methods", "gradeint"], "got gradeint; did you mean gradient?"),
        (["--metrics", "ious"], "got ious; did you mean iou?"),
        (["--metrics", " , "], "metrics: expected at least one, got none"),
        (["--explainer", "nowhere", "--methods", "mask,rise:maks=4"], "; did you mean masks?"),
        (
            ["--explainer", "nowhere"],
            "nowhere: expected a run folder, found no config.json; give the --out of an "
            "`apercu train …`",
        ),
    ],
)
def test_wrong_options_are_refused(
    apercu, tiny_card, tmp_path, words: list[str], line: str
) -> None:
    command = ["compare", "--classifier", tiny_card, "--images", SPEC, "--out", tmp_path / "o"]
    result = apercu(*command, *words)
    assert result.code == 2
    assert result.err.endswith(f"{line}\n")
    assert not (tmp_path / "o").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(
    apercu, tiny_card, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from apercu.methods import Gradient

    def fail(*_: object) -> None:
        raise AssertionError("work began")

    monkeypatch.setattr(Gradient, "__call__", fail)
    (tmp_path / "file").write_text("")
    words = ["--images", SPEC, "--methods", "gradient", "--metrics", "energy"]
    result = apercu("compare", "--classifier", tiny_card, *words, "--out", tmp_path / "file" / "x")
    assert result.code == 2
    assert "file is a file; choose another" in result.err and result.err.count("\n") == 1


def test_a_trailing_comma_is_no_metric(apercu, tiny_card, tmp_path) -> None:
    words = ["--images", SPEC, "--methods", "gradient,", "--metrics", "energy,", "--out", tmp_path]
    result = apercu("compare", "--classifier", tiny_card, *words)
    assert result.code == 0
    assert "cost of gradient: 2 of 2" in result.err.splitlines()


OWN = """
from dataclasses import dataclass
from typing import ClassVar
from apercu.methods import Method
from apercu.metrics import make_metric

@dataclass(frozen=True)
class MyMethod(Method):
    needs: ClassVar = ()
    power: float = 1.0

    def compute_maps(self, classifier, images, targets):
        return images.mean(dim=1) ** self.power

@make_metric(better="lower", meaning="how much of the map is red")
def redness(maps, images):
    return (maps * images[:, 0]).mean(dim=(1, 2))

def bare(maps):
    return maps.mean(dim=(1, 2))
"""


def test_own_methods_and_metrics_are_compared_and_kept(
    apercu, tiny_card, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_cli.py").write_text(OWN)
    methods = "own_cli:MyMethod,own_cli.py:MyMethod:power=2,smoothed=0.1,centre_box"
    words = ["compare", "--classifier", tiny_card, "--images", SPEC, "--out", tmp_path / "o"]
    words += ["--methods", methods, "--metrics", "iou,own_cli:redness", "--no-cost"]
    result = apercu(*words, "--against", "my_method")
    assert result.code == 0, result.err
    stored = json.loads((tmp_path / "o" / "results.json").read_text())
    names = ["my_method", "my_method:power=2,smoothed=0.1", "centre_box"]
    assert list(stored["explainers"]) == names and stored["cost"] == []
    assert {row["metric"]: row["n"] for row in stored["rows"]} == {"iou": 4, "redness": 8}
    report = (tmp_path / "o" / "report.html").read_text()
    assert "how much of the map is red" in report and "lower is better" in report
    assert "than my_method on the same images" in report
    table = (tmp_path / "o" / "table.csv").read_text()
    assert "centre_box,redness,lower," in table and table.count(",my_method\n") == 4
    again = apercu(*words)
    assert again.code == 0 and "my_method: 8 of 8" not in again.err.splitlines()
    assert json.loads((tmp_path / "o" / "results.json").read_text())["rows"] == stored["rows"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--metrics", "own_bad:bare"], "bare has no record of its direction and meaning; write"),
        (["--metrics", "own_bad:MyMethod"], "MyMethod has no record"),
        (["--methods", "own_bad:redness"], "got Metric"),
        (["--methods", "own_bad:bare"], "expected a function of (classifier, images, targets)"),
        (["--methods", "own_bad:MyMethod:powr=2"], "has no setting powr, expected power; did you"),
        (["--methods", "own_bad:MyMethd"], "own_bad has no MyMethd; did you mean MyMethod?"),
        (["--methods", "gradient", "--against", "gradeint"], "against: expected one of gradient"),
    ],
)
def test_what_is_no_method_or_metric_ends_before_the_work(
    apercu, tiny_card, tmp_path, monkeypatch: pytest.MonkeyPatch, words: list[str], line: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_bad.py").write_text(OWN)
    command = ["compare", "--classifier", tiny_card, "--images", SPEC, "--out", tmp_path / "o"]
    result = apercu(*command, *words)
    assert result.code == 2 and line in result.err, result.err
    assert result.err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "o").exists()


def test_a_run_of_another_classifier(tiny_card: Path, tiny_run: Path) -> None:
    from apercu.evaluation.open_explainers import open_explainer

    other = open_classifier(tiny_card)
    other.fingerprint = "0" * 64
    with pytest.raises(RunError, match="was trained for"):
        open_explainer(tiny_run, other)


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_is_finished_has_a_report_when_interrupted(
    apercu: Callable[..., Any],
    tiny_card: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stop: signal.Signals,
) -> None:
    def interrupt(self: Occlusion, *_: object) -> None:
        os.kill(os.getpid(), stop)

    def run_compare(methods: str) -> Any:
        words = ("--images", SPEC, "--methods", methods, "--metrics", "energy", "--out", tmp_path)
        return apercu("compare", "--classifier", tiny_card, *words)

    monkeypatch.setattr(Occlusion, "__call__", interrupt)
    result = run_compare("occlusion,centre_box")
    assert result.code == 130 and not (tmp_path / "report.html").exists()
    assert result.err.splitlines()[-1] == (
        "error: interrupted; no row was finished, so nothing is kept; run the same comparison again"
    )
    assert run_compare("gradient").code == 0
    (tmp_path / "report.html").unlink()
    result = run_compare("gradient,occlusion")
    assert result.code == 130
    assert result.err.splitlines()[-1] == (
        f"error: interrupted; {tmp_path} keeps the finished rows (gradient); "
        "run the same comparison again for the rest"
    )
    report = (tmp_path / "report.html").read_text()
    assert "Gradient()" in report and report.count('alt="gradient: ') == 6
    assert "gradient" in (tmp_path / "table.md").read_text()


def test_names_are_shown_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    names = ("mine[bold]", "a[/]b", ":cat:", "red[red]\x1b[31m")
    rows = [
        MetricRow(name, "iou", value, (value, value), 2, "higher")
        for name, value in zip(names, (0.9, 0.5, 0.4, 0.3), strict=True)
    ]
    key = ComparisonKey("c", "f", "images", 2, "top", "s", {})
    failed = {"x[bold] :cat:": "why [not]"}
    results = ComparisonResults(key, {}, dict.fromkeys(names, "k"), tuple(rows), failed=failed)
    show_ranking(results)
    out = capsys.readouterr().out
    assert all(name in out for name in (*names[:3], r"red[red]\x1b[31m"))
    assert "not measured: x[bold] :cat: (why [not])" in out
