from __future__ import annotations

import base64
import io
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from apercu import render
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.evaluation import (
    CompareSettings,
    ComparisonKey,
    ComparisonResults,
    Cost,
    Invocation,
    MetricRow,
    run_comparison,
)
from apercu.evaluation.gallery import draw_gallery
from apercu.evaluation.ranking import build_ranking
from apercu.evaluation.report import PICTURE_SIDE, GalleryImage, write_report
from apercu.evaluation.sample import split_indices
from apercu.images import open_images
from apercu.methods import CentreBox, Gradient, TrainedMethod, TrueBox

SUBJECT = ComparisonKey(
    classifier="timm/tiny",
    fingerprint="f00d",
    images="photos & <friends>",
    limit=500,
    targets="labels",
    sample="0",
    settings={},
)


def row(explainer: str, metric: str, value: float, better: str = "lower") -> MetricRow:
    return MetricRow(explainer, metric, value, (value - 0.1, value + 0.1), 250, better)


@pytest.fixture
def results() -> ComparisonResults:
    tuned = replace(
        row("mask", "localisation_error", 0.344),
        threshold=0.55,
        threshold_from="tune half, 250 images",
    )
    return ComparisonResults(
        SUBJECT,
        environment={"python": "3.11", "date": "2025-01-01"},
        explainers={"mask": "1", "cam": "Cam()", "true_box": "TrueBox()"},
        rows=(
            row("cam", "saliency_metric", 0.257),
            row("cam", "localisation_error", 0.442),
            row("cam", "iou", 0.3, "higher"),
            row("mask", "saliency_metric", -0.15),
            tuned,
            row("mask", "iou", 0.6, "higher"),
            row("true_box", "saliency_metric", -2.0),
            row("true_box", "localisation_error", 0.0),
        ),
        cost=(Cost("mask", "cpu", 1, 7.5, 1.0, 0.4, 1800.0, 0.0, 12.5),),
        calls=(Invocation("apercu compare --limit 500", {"date": "2025-01-01"}, ("mask",)),),
    )


@pytest.fixture
def images() -> tuple[GalleryImage, ...]:
    blue = Image.new("RGB", (64, 48), "#2040c0")
    return (GalleryImage("a.jpg", "cat (90%)", blue, {"mask": blue, "cam": blue}),)


def page(results: ComparisonResults, images: tuple[GalleryImage, ...], folder: Path) -> str:
    path = write_report(results, images, folder / "report.html")
    return path.read_text()


def test_the_table_is_ordered_by_mean_rank_with_references_last(results: ComparisonResults) -> None:
    table = build_ranking(results)
    assert [line.name for line in table] == ["mask", "cam", "true_box"]
    assert [line.group == "truth" for line in table] == [False, False, True]
    assert not any(cell.best for line in table for cell in line.cells.values())  # not tested
    scores = {
        (each.explainer, each.metric): {f"{n}.jpg": each.value + n / 1000 for n in range(20)}
        for each in results.rows
    }
    best = {
        (line.name, metric)
        for line in build_ranking(replace(results, scores=scores))
        for metric, cell in line.cells.items()
        if cell.best
    }
    assert best == {("mask", m) for m in ("saliency_metric", "localisation_error", "iou")}


def test_intervals_lie_on_one_scale_per_column(results: ComparisonResults) -> None:
    cells = {
        line.name: line.cells["iou"] for line in build_ranking(results) if line.name != "true_box"
    }
    assert (cells["cam"].left, cells["cam"].point) == pytest.approx((0, 20))
    assert cells["mask"].left + cells["mask"].width == pytest.approx(100)


def test_the_page_holds_its_numbers_and_words(
    results: ComparisonResults, images: tuple[GalleryImage, ...], tmp_path: Path
) -> None:
    text = page(results, images, tmp_path)
    for words in (
        "34.4\u00a0%",
        "threshold 0.55",
        "tune half, 250 images",
        "−0.150",
        "not measured",
        "30 min",
        "0.40",
        "cat (90%)",
        "apercu compare --limit 500",
        "2025-01-01",
        "f00d",
        "photos &amp; &lt;friends&gt;",
    ):
        assert words in text, words
    assert "<friends>" not in text


def test_the_page_needs_nothing_else(
    results: ComparisonResults, images: tuple[GalleryImage, ...], tmp_path: Path
) -> None:
    text = page(results, images, tmp_path)
    assert not re.search(r"https?://|<script|<link|@import|url\(", text)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert len(pictures) == text.count("<img") == 3
    opened = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert np.abs(np.asarray(opened).mean(axis=(0, 1)) - (0x20, 0x40, 0xC0)).max() < 4


def test_the_page_draws_quality_against_cost_and_the_curves(
    results: ComparisonResults, tmp_path: Path
) -> None:
    full = replace(
        results,
        cost=(*results.cost, Cost("cam", "cpu", 1, 3.5, 1.0, 0.4, 0.0, 1.0, None)),
        needs={"mask": ("training",), "cam": ("layers",), "true_box": ("truth",)},
        curves={"mask": {"deletion": (0.9, 0.1)}, "cam": {"deletion": (0.9, 0.4)}},
    )
    text = page(full, (), tmp_path)
    assert text.count("<svg") == 4  # three metrics, one curve
    assert "<h2>What happens to the class" in text and "<h2>What each needs" in text
    assert "unknown" in text  # memory
    assert "true_<wbr>box" in text
    bare = page(results, (), tmp_path)
    assert "<h2>What happens" not in bare and "<h2>What each" not in bare


def test_a_page_without_cost_or_pictures_is_still_a_page(
    results: ComparisonResults, tmp_path: Path
) -> None:
    text = page(replace(results, cost=()), (), tmp_path)
    assert "<h2>All explainers" in text
    assert "<h2>Time" not in text
    assert "<figure" not in text


@pytest.fixture
def grouped(results: ComparisonResults) -> ComparisonResults:
    """The results with a baseline, needs, and a method that is faster than the trained one."""
    box = (row("centre_box", "iou", 0.9, "higher"), row("centre_box", "saliency_metric", 0.5))
    return replace(
        results,
        key=replace(SUBJECT, classifier="/home/me/models/birds/card.json", images="/home/me/val"),
        explainers={**results.explainers, "centre_box": "CentreBox(area=0.5)"},
        rows=(*box, *results.rows),
        cost=(
            *results.cost,
            Cost("cam", "cpu", 1, 3.5, 1.0, 0.2, 0.0, 1.0, None),
            Cost("slow", "cpu", 1, 90.0, 1.0, 5.0, 0.0, 500.0, None),
        ),
        failed={"rise": "out of memory"},
        needs={
            "mask": ("training",),
            "cam": ("layers",),
            "slow": ("queries",),
            "centre_box": (),
            "true_box": ("truth",),
        },
    )


def test_pictures_come_before_tables_and_the_specification_last(
    grouped: ComparisonResults, images: tuple[GalleryImage, ...], tmp_path: Path
) -> None:
    text = page(grouped, images, tmp_path)
    parts = ["<h1>", 'class="certainty"', "<img", "<table", '<details class="specification">']
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    above, specification = text.split('<details class="specification">')
    assert "/home/me" not in above and "/home/me/models/birds/card.json" in specification
    assert "apercu compare --limit 500" in specification and "compare --limit" not in above


def test_what_never_looks_at_the_classifier_stands_in_a_group_of_its_own(
    grouped: ComparisonResults, tmp_path: Path
) -> None:
    text = page(grouped, (), tmp_path)
    names = [part.split("<")[0] for part in text.split('<th scope="rowgroup">')[1:]]
    assert names == ["Explainers", "Baselines", "Reference", "Not measured"]
    groups = dict(zip(names, text.split('<th scope="rowgroup">')[1:], strict=True))
    assert "mask" in groups["Explainers"] and "centre_" not in groups["Explainers"]
    assert "a box in the middle of the image" in groups["Baselines"]
    assert "true_<wbr>box" in groups["Reference"] and "out of memory" in groups["Not measured"]
    assert "clearly best</span>" not in text  # without scores nothing is tested


def test_training_that_never_pays_is_said(grouped: ComparisonResults, tmp_path: Path) -> None:
    text = page(grouped, (), tmp_path)
    costs = text.split("<h2>Time and memory")[1].split("</table>")[0]
    lines = {line.split("<")[0]: line for line in costs.split('<th scope="row">')[1:]}
    assert ">never</td>" in lines["cam"] and ">is trained itself</td>" in lines["mask"]
    assert re.search(r">\d[\d,]*</td></tr>", lines["slow"])
    assert "training never pays against this row" in text
    untrained = replace(grouped, needs={**grouped.needs, "mask": ("queries",)})
    assert "never pays" not in page(untrained, (), tmp_path)


def test_a_page_can_be_heard_and_printed(
    grouped: ComparisonResults, images: tuple[GalleryImage, ...], tmp_path: Path
) -> None:
    text = page(grouped, images, tmp_path)
    levels = [int(level) for level in re.findall(r"<h([1-6])", text)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert all('scope="' in head for head in re.findall("<th[ >][^>]*", text))
    assert all(re.search(r'alt="[^"]+"', tag) for tag in re.findall("<img[^>]*>", text))
    assert 'role="region" aria-label="' in text and "@media print" in text
    assert '<html lang="en">' in text and "★" not in text


def luminance(colour: str) -> float:
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return float(np.dot((0.2126, 0.7152, 0.0722), linear))


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_words_stand_out_from_the_paper(
    results: ComparisonResults, tmp_path: Path, scheme: int
) -> None:
    rule = re.findall(r":root \{([^}]*)\}", page(results, (), tmp_path))[scheme]
    colours = dict(re.findall(r"--(\w+): (#\w+)", rule))
    paper = luminance(colours["paper"])
    for name in ("ink", "soft", "first", "care"):
        low, high = sorted((paper, luminance(colours[name])))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


@pytest.fixture
def phone() -> Iterator[Any]:
    """A page of 320 pixels, the smallest phones, in Chromium: Playwright's own, or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="report: no playwright")
    with sync_api.sync_playwright() as playwright:
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else shutil.which("chromium")
        if path is None:
            pytest.skip("report: no Chromium; playwright install chromium")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 320, "height": 640}, color_scheme="dark")
        browser.close()


def test_a_phone_scrolls_tables_and_never_the_page(
    grouped: ComparisonResults, images: tuple[GalleryImage, ...], tmp_path: Path, phone: Any
) -> None:
    name = "mask:run=a_name_that_is_longer_than_any_screen_of_a_phone,smoothed=0.1"
    long = replace(
        grouped,
        explainers={name: "1"},
        rows=tuple(
            replace(each, explainer=name) if each.explainer == "mask" else each
            for each in grouped.rows
        ),
    )
    page(long, images, tmp_path)
    phone.goto(f"file://{tmp_path / 'report.html'}")
    width = "document.documentElement.scrollWidth"
    assert phone.evaluate(width) == 320
    phone.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    assert phone.evaluate(width) == 320
    table = phone.locator(".scroll").first
    assert table.evaluate("each => each.scrollWidth > each.clientWidth")
    assert table.locator(".hint").is_visible()
    head = table.locator("tbody tr:nth-child(2) th").first
    before = head.bounding_box()["x"]
    table.evaluate("each => each.scrollLeft = 150")
    assert head.bounding_box()["x"] == before  # the first column stays


@pytest.fixture
def classifier() -> Classifier:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 6, 5, stride=4), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    names = open_images("planted").class_names
    spec = InputSpec(channels=3, size=(48, 48))
    return wrap_module(network, ClassifierCard(source="tests:net", input=spec, classes=names))


def test_the_gallery_shows_reported_images_under_every_map(classifier: Classifier) -> None:
    source = open_images("planted:images=20,size=64")
    centre = torch.zeros(48, 48)
    centre[12:24, 12:36] = 1
    explainers = {
        "mask": TrainedMethod(lambda images, targets: centre.expand(len(images), -1, -1), "m", 1.0),
        "gradient": Gradient(),
        "centre_box": CentreBox(),
        "true_box": TrueBox(),
    }
    metrics = ("saliency_metric", "localisation_error", "iou")
    settings = CompareSettings(metrics, limit=12, batch=4, cost_batches=(), thresholds=(0.5,))
    results = run_comparison(classifier, source, explainers, settings)
    images = draw_gallery(classifier, source, explainers, results, count=3)
    test = {source[index].name for index in split_indices(20, 12, 0)[1]}
    assert len({image.name for image in images} & test) == 3
    assert all(list(image.views) == ["mask", "gradient", "centre_box"] for image in images)
    assert all("%" in image.caption for image in images)
    line = [int(render.BOX_COLOUR[start : start + 2], 16) for start in (1, 3, 5)]
    scale = PICTURE_SIDE / 64
    drawn = (np.asarray(images[0].views["mask"]) == line).all(axis=2)
    assert drawn.any(axis=0).nonzero()[0].min() == 16 * scale
    assert drawn.any(axis=0).nonzero()[0].max() == 48 * scale - 1
    assert drawn.any(axis=1).nonzero()[0].max() == 32 * scale - 1


def test_a_box_around_the_whole_image_is_left_out(classifier: Classifier, tmp_path: Path) -> None:
    source = open_images("planted:images=8,size=64")
    centre = torch.full((48, 48), 0.6)
    centre[12:24, 12:36] = 1
    explain = lambda images, targets: centre.expand(len(images), -1, -1)  # noqa: E731
    explainers = {"mask": TrainedMethod(explain, "m", 1.0)}
    line = [int(render.BOX_COLOUR[start : start + 2], 16) for start in (1, 3, 5)]
    for threshold, has_box in ((0.5, False), (0.8, True)):
        settings = CompareSettings(("iou",), limit=8, cost_batches=(), thresholds=(threshold,))
        results = run_comparison(classifier, source, explainers, settings)
        images = draw_gallery(classifier, source, explainers, results, count=1)
        view = np.asarray(images[0].views["mask"])
        assert (view == line).all(axis=2).any() == has_box
    assert "the box at the threshold that was chosen for it" in page(results, images, tmp_path)
    fixed = replace(results, rows=tuple(replace(row, threshold=None) for row in results.rows))
    assert "on a map: the box at the threshold 0.5" in page(fixed, images, tmp_path)


def test_a_view_is_drawn_once_and_shown_without_its_explainer(
    classifier: Classifier, tmp_path: Path
) -> None:
    source, batch_sizes = open_images("planted:images=8,size=64"), []

    def attribute(images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        batch_sizes.append(len(images))
        return images[:, 0]

    explainers = {"mask": TrainedMethod(attribute, "m", 1.0), "centre_box": CentreBox()}
    settings = CompareSettings(("pointing_game",), limit=8, batch=4, cost_batches=())
    results = run_comparison(classifier, source, explainers, settings)
    first = draw_gallery(classifier, source, explainers, results, count=2, out=tmp_path)
    batch_sizes.clear()
    others = {"centre_box": CentreBox()}
    again = draw_gallery(classifier, source, others, results, count=2, out=tmp_path)
    assert not batch_sizes and len(list((tmp_path / "gallery").iterdir())) == 4
    for before, after in zip(first, again, strict=True):
        assert list(after.views) == ["mask", "centre_box"]
        assert np.array_equal(np.asarray(before.views["mask"]), np.asarray(after.views["mask"]))
    elsewhere = draw_gallery(classifier, source, others, results, count=2, out=tmp_path / "new")
    assert all(list(image.views) == ["centre_box"] for image in elsewhere)


def test_results_of_version_0_1_0_have_a_page(tmp_path: Path) -> None:
    old = ComparisonResults.load(Path(__file__).parents[1] / "golden" / "compare")
    text = page(old, (), tmp_path)
    names = {row.explainer for row in old.rows}
    assert all(name.split(":")[0].split("_")[0] in text for name in names)
    assert '<p class="certainty">Measured on ' in text
