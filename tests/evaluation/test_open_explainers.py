"""`apercu.compare`: whatever is named as classifier, images or explainer is opened and measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

import apercu.methods
from apercu import MaskExplainer, open_classifier, open_images
from apercu.classifiers import Classifier
from apercu.errors import ConfigError, RunError
from apercu.evaluation import ComparisonResults, compare
from apercu.evaluation.open_explainers import (
    ExplainerLike,
    open_explainer,
    open_explainers,
)
from apercu.evaluation.sample import SampleRecord
from apercu.methods import CentreBox, Gradient, Rise, Smoothed, TrainedMethod, TrueBox
from apercu.methods.own import FunctionExplainer

IMAGES = "planted:size=32,images=6,classes=3,split=test"
METRICS = ("pointing_game", "energy")


@pytest.fixture
def classifier(tiny_card: Path) -> Classifier:
    return open_classifier(tiny_card)


def brightness(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
    return images.mean(1)


def values_of(results: ComparisonResults, explainer: str) -> list[float]:
    return [row.value for row in results.rows if row.explainer == explainer]


def test_every_form_of_an_explainer_is_measured(
    classifier: Classifier, tiny_card: Path, tiny_run: Path
) -> None:
    trained = MaskExplainer.from_pretrained(tiny_run)
    explainers: dict[str, ExplainerLike] = {
        "object": trained,
        "folder": tiny_run,
        "text": str(tiny_run),
        "method": apercu.methods.get("centre_box"),
        "name": "centre_box",
        "function": brightness,
        "truth": TrueBox(),
    }
    results = compare(tiny_card, IMAGES, explainers, metrics="energy, pointing_game")
    assert list(results.explainers) == list(explainers) and not results.failed
    assert values_of(results, "object") == values_of(results, "folder")
    assert values_of(results, "object") == values_of(results, "text")
    assert values_of(results, "method") == values_of(results, "name")
    assert results.needs["object"] == ("training",) and results.needs["function"] == ()
    opened = compare(classifier, open_images(IMAGES), {"object": trained}, metrics=METRICS)
    assert opened.rows == tuple(row for row in results.rows if row.explainer == "object")


def test_a_sequence_names_its_rows_itself(tiny_card: Path, tiny_run: Path) -> None:
    results = compare(tiny_card, IMAGES, [tiny_run, "centre_box:area=0.3"], metrics=METRICS)
    assert list(results.explainers) == ["mask", "centre_box:area=0.3"]
    with pytest.raises(ConfigError, match="got MaskExplainer; give it a name"):
        compare(tiny_card, IMAGES, [MaskExplainer.from_pretrained(tiny_run)])


def test_methods_may_wrap_explainers_by_name_and_get_the_seed(
    classifier: Classifier, tiny_run: Path
) -> None:
    source = open_images(IMAGES)
    methods = "mine:smoothed=0.05,rise:masks=9"
    opened = open_explainers({"mine": tiny_run}, methods, classifier, source, seed=7)
    assert list(opened) == ["mine", "mine:smoothed=0.05", "rise:masks=9"]
    smoothed = opened["mine:smoothed=0.05"]
    assert isinstance(smoothed, Smoothed) and smoothed.method == opened["mine"]
    assert opened["rise:masks=9"] == Rise(masks=9, seed=7)
    named = open_explainers({"mine": "rise:masks=9"}, None, classifier, source, seed=7)
    assert named == {"mine": Rise(masks=9, seed=7)}
    given = open_explainers({"mine": Rise(masks=9)}, None, classifier, source, seed=7)
    assert given == {"mine": Rise(masks=9)}  # the seed of an object stays


def test_without_explainers_all_quick_methods_are_taken(classifier: Classifier) -> None:
    source = open_images(IMAGES)
    quick = open_explainers(None, None, classifier, source)
    assert {"gradient", "grad_cam", "centre_box"} <= set(quick) and "rise" not in quick
    assert set(open_explainers({"mine": Gradient()}, None, classifier, source)) == {"mine"}
    both = open_explainers({"mine": Gradient()}, "quick", classifier, source)
    assert set(both) == {"mine", *quick}


def test_files_are_written_and_what_is_finished_is_kept(
    tiny_card: Path, tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, limits = tmp_path / "table", {"metrics": METRICS, "limit": 4}
    first = compare(tiny_card, IMAGES, {"mine": tiny_run}, out, **limits)  # type: ignore[arg-type]
    names = {"report.html", "table.md", "table.csv", "results.json", "scores.csv", "gallery"}
    assert {path.name for path in out.iterdir()} - {".lock"} == names
    assert json.loads((out / "results.json").read_text())["limit"] == 4
    monkeypatch.setattr(MaskExplainer, "attribute", None)  # nothing is computed again
    again = compare(tiny_card, IMAGES, {"mine": tiny_run}, str(out), **limits)  # type: ignore[arg-type]
    assert again.rows == first.rows and ComparisonResults.load(out).rows == first.rows


def test_a_function_is_measured_by_every_comparison(tiny_card: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def count(classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        calls.append(len(images))
        return images.mean(1)

    for _ in range(2):
        compare(tiny_card, IMAGES, {"mine": count}, tmp_path, metrics=METRICS)
        assert calls
        calls.clear()
    assert FunctionExplainer(count).cache_key != FunctionExplainer(count).cache_key


def test_results_are_a_table_as_text_and_in_a_notebook(tiny_card: Path) -> None:
    explainers: dict[str, ExplainerLike] = {"<mine>": CentreBox(), "other": brightness}
    results = compare(tiny_card, IMAGES, explainers, metrics=METRICS)
    table = results.table()
    assert {row.name for row in table} == set(explainers)
    text = str(results).splitlines()
    assert text[0].split("  ")[0] == "explainer" and "Pointing game" in text[0]
    assert [line.split()[0] for line in text[1:3]] == [row.name for row in table]
    assert "clearly" in text[-1]
    html = results._repr_html_()
    assert html.count("<tr>") == 3 and "&lt;mine&gt;" in html and "<mine>" not in html
    assert "| explainer |" in results.to_markdown()


@pytest.mark.parametrize(
    ("explainers", "match"),
    [
        ({"mine": "gradcam"}, "got gradcam; did you mean grad_cam"),
        ({"mine": "rise:maks=4"}, "rise has no setting maks"),
    ],
)
def test_wrong_explainers_are_refused(
    tiny_card: Path, explainers: dict[str, ExplainerLike], match: str
) -> None:
    with pytest.raises(ConfigError, match=match):
        compare(tiny_card, IMAGES, explainers)


def test_a_folder_that_is_no_run_and_a_run_of_another_classifier(
    classifier: Classifier, tiny_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match="expected a run folder"):
        open_explainer(tmp_path, classifier)
    classifier.fingerprint = "0" * 64
    with pytest.raises(RunError, match="was trained for"):
        open_explainer(tiny_run, classifier)


def test_maps_come_to_the_device_of_the_images(classifier: Classifier, tiny_run: Path) -> None:
    method = open_explainer(tiny_run, classifier)
    assert isinstance(method, TrainedMethod) and method.map_scale == "mask"
    maps = method(classifier, torch.rand(2, 3, 32, 32), torch.tensor([0, 1]))
    assert maps.shape == (2, 32, 32) and maps.device.type == "cpu"


def test_the_digest_of_a_sample_reads_the_text_of_earlier_versions() -> None:
    record = SampleRecord(3, "it's.png", 1, has_boxes=True, has_region=False)
    assert record.digest_text == (
        'Entry(index=3, name="it\'s.png", target=1, has_boxes=True, has_region=False)'
    )


def test_methods_may_have_names_of_their_own(classifier: Classifier) -> None:
    named = {"mine": brightness, "centre": CentreBox}
    results = compare(classifier, IMAGES, methods=named, metrics="energy", cost=False)
    assert list(results.explainers) == ["mine", "centre"]
    both = compare(
        classifier, IMAGES, {"first": CentreBox()}, methods=named, metrics="energy", cost=False
    )
    assert list(both.explainers) == ["first", "mine", "centre"]
    assert values_of(both, "first") == values_of(results, "centre")
    with pytest.raises(ConfigError, match="'mine' is an explainer already"):
        compare(classifier, IMAGES, {"mine": CentreBox()}, methods=named)
    with pytest.raises(ConfigError, match="give explainers as a dictionary"):
        compare(classifier, IMAGES, ["centre_box"], methods=named)
