"""The report of an evaluation: labels saved, the table, images at their features."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from pydantic import TypeAdapter

from apercu.errors import ConfigError
from apercu.pretraining.few_labels import LearningCurveRow, find_savings
from apercu.pretraining.heads import LabelledFeatures
from apercu.pretraining.report import (
    draw_pca_plot,
    format_markdown,
    project_on_principal_components,
    write_finding,
    write_report,
)


def _row(start: str, labels: int, value: float) -> LearningCurveRow:
    return LearningCurveRow(
        start, "linear", labels / 100, labels, "balanced_accuracy", value, (value, value), 3, 50
    )


def test_labels_saved_at_equal_accuracy() -> None:
    rows = [_row("good", 10, 0.6), _row("good", 100, 0.8), _row("bad", 10, 0.5)]
    (saving,) = find_savings([*rows, _row("bad", 100, 0.7)])
    assert (saving.start, saving.other, saving.labels) == ("good", "bad", 100)
    assert (saving.needed, saving.at_most) == (pytest.approx(10**1.5), False)
    (sooner,) = find_savings([*rows, _row("bad", 100, 0.55)])
    assert (sooner.needed, sooner.at_most) == (10, True)


def test_a_network_that_falls_behind_has_saved_labels_before() -> None:
    good, bad = (
        [_row(name, n, value) for n, value in zip((10, 100, 1000), values, strict=True)]
        for name, values in (("good", (0.7, 0.85, 0.9)), ("bad", (0.5, 0.8, 0.95)))
    )
    by_start = {saving.start: saving for saving in find_savings([*good, *bad])}
    assert (by_start["good"].labels, by_start["good"].value) == (100, 0.8)
    assert by_start["good"].needed == pytest.approx(10 ** (1 + 2 / 3))
    assert (by_start["bad"].labels, by_start["bad"].value) == (1000, 0.9)


def test_the_table_in_markdown() -> None:
    rows = [_row("good", 10, 0.6), _row("good", 1000, 0.8), _row("bad", 10, 0.5)]
    assert format_markdown(rows).splitlines() == [
        "| features, head | 10 labels | 1,000 labels |",
        "|---|---|---|",
        "| good, linear | 60.0 (60 to 60) | 80.0 (80 to 80) |",
        "| bad, linear | 50.0 (50 to 50) |  |",
    ]


def test_principal_directions_are_those_of_largest_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(300, 2, generator=generator) * torch.tensor([3.0, 1.0])
    mixing = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q[:2]
    features = hidden @ mixing + 0.01 * torch.randn(300, 8, generator=generator)
    features = (features - features.mean(0)) / features.std(0, unbiased=False)
    projected = project_on_principal_components(features)
    values = torch.linalg.svdvals(features.double())
    torch.testing.assert_close(projected.double().norm(dim=0), values[:2], rtol=1e-4, atol=0)
    assert (projected[:, 0] @ projected[:, 1]).abs() < 1e-2 * projected.norm() ** 2
    torch.testing.assert_close(
        project_on_principal_components(features.flip(0)).flip(0), projected, atol=1e-3, rtol=0
    )


def test_images_are_drawn_at_their_features() -> None:
    features = torch.tensor([[0.0, 0.0], [10.0, 1.0], [20.0, -1.0], [30.0, 0.0]])
    shades = torch.linspace(0, 1, 4)
    images = [torch.full((3, 8, 8), float(shade)) for shade in shades]
    labelled = LabelledFeatures(features, torch.tensor([0, 1, 1, 5]), images)
    picture = draw_pca_plot(labelled, ["#ff0000", "#0000ff"])
    values = {picture.getpixel((x, y)) for x in range(0, 900, 4) for y in range(0, 900, 4)}
    assert {(255, 0, 0, 255), (0, 0, 255, 255)} <= values
    assert (0, 0, 0, 0) in values  # nothing is drawn between the images
    for shade in (0, 85, 170):
        assert (*(shade,) * 3, 255) in values
    with pytest.raises(ConfigError, match="expected the images"):
        draw_pca_plot(LabelledFeatures(features, labelled.labels), ["#ff0000"])


ABOUT = {"classes": ["a", "b", "c", "d"], "test": "/data/val"}


def _spread(start: str, value: float, reach: float = 0.02) -> LearningCurveRow:
    return _row(start, 10, value)._replace(ci95=(value - reach, value + reach))


def test_the_finding_compares_with_random_weights() -> None:
    finding = write_finding([_spread("good", 0.6), _spread("good, anew", 0.4)], ABOUT)
    assert finding.headline == (
        "With 10 labels, good is clearly better than the same network with random weights: "
        "it is right on 60%, the other on 40%."
    )
    assert "(by chance 25%), on 50 images of val" in finding.certainty
    assert finding.lines[0].mark == "clear"
    near = write_finding([_spread("good", 0.42), _spread("good, anew", 0.4)], ABOUT)
    assert "good is not clearly better than the same network" in near.headline
    worse = write_finding([_spread("good", 0.3), _spread("good, anew", 0.4)], ABOUT)
    assert "good is not clearly better" in worse.headline and near.lines[0].mark == "chance"
    assert worse.lines[0].mark == "warning"  # random weights are better beyond chance


def test_the_finding_compares_networks_and_random_weights_never_win() -> None:
    rows = [_spread("one", 0.6), _spread("two", 0.5), _spread("one, anew", 0.2)]
    clear = write_finding(rows, ABOUT)
    headline = (
        "With 10 labels, one is clearly the best of 2 networks: it is right on 60%, two on 50%."
    )
    assert clear.headline == headline and clear.lines[0].mark == "clear"
    weak = write_finding([*rows[:2], _spread("one, anew", 0.9)], ABOUT)
    assert weak.headline == f"{headline} Random weights do better, 90%."
    assert [line.mark for line in weak.lines] == ["clear", "warning"]
    assert "random" not in weak.lines[0].text and "two" not in weak.lines[1].text
    even = write_finding([*rows[:2], _spread("one, anew", 0.61)], ABOUT)
    assert even.headline == f"{headline} Random weights do as well, 61%."
    assert [line.mark for line in even.lines] == ["clear", "chance"]
    tie = write_finding([_spread("one", 0.51), _spread("two", 0.5)], ABOUT)
    assert tie.headline.startswith("With 10 labels, no network is clearly the best: one is right")
    assert tie.lines[0].mark == "chance"
    alone = write_finding([_spread("one", 0.5)], ABOUT)
    assert alone.headline == "With 10 labels, one is right on 50%."
    assert alone.lines[0].mark == "plain"


def test_results_of_version_0_1_0_have_a_page(tmp_path: Path) -> None:
    folder = Path(__file__).parents[1] / "golden" / "features"
    content = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    rows = TypeAdapter(list[LearningCurveRow]).validate_python(content.pop("rows"))
    text = write_report(rows, {}, content, tmp_path).read_text(encoding="utf-8")
    assert "<h1>With " in text and "balanced accuracy" in text
