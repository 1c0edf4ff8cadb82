"""The measurement of unknown images: curves, rows, what is kept, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from apercu import open_classifier, open_images
from apercu.errors import ConfigError, ImageError, ImagesError, RunError
from apercu.images import ImageSource
from apercu.log import redirect_warnings
from apercu.render import save_image, to_image
from apercu.robustness.unknown import (
    Energy,
    LayerMahalanobis,
    MaxSoftmax,
    OpenMax,
    UnknownMethod,
    curves,
    measure,
    measure_unknown,
    parse_unknown_methods,
)
from apercu.robustness.unknown.curves import compute_curves, resample_curves
from apercu.robustness.unknown.results import METRICS, UnknownRows, name_image_sets

PLANTED = "planted:size=32,images=60,classes=3,difficulty=0"


def test_curves_are_those_of_another_library() -> None:
    generator = np.random.default_rng(0)
    known = generator.normal(size=90).round(1)
    unknown = generator.normal(1.2, size=40).round(1)
    values, truth = compute_curves(known, unknown), np.r_[np.zeros(90), np.ones(40)]
    scores = np.r_[known, unknown]
    assert values.auroc == pytest.approx(roc_auc_score(truth, scores))
    assert values.aupr_out == pytest.approx(average_precision_score(truth, scores))
    assert values.aupr_in == pytest.approx(average_precision_score(1 - truth, -scores))
    limit = np.sort(known)[85]  # 86 of 90 pass, at least 95 %
    assert values.fpr95 == pytest.approx((unknown <= limit).mean())
    intervals = resample_curves(known, unknown, seed=0)
    for (low, high), value in zip(intervals, values, strict=True):
        assert low < value < high and high - low < 0.4


def test_names_of_image_sets_tell_them_apart() -> None:
    texts = ["/d/stars/test", "/d/films/test", "/d/films/known", "planted:size=8", "planted:size=9"]
    names = ["stars/test", "films/test", "/d/films/known", "planted:size=8", "planted:size=9"]
    assert name_image_sets(texts) == dict(zip(names, texts, strict=True))
    with pytest.raises(ConfigError, match="/d/stars/test is there twice"):
        name_image_sets([*texts, "/d/stars/test"])


def test_separated_images_are_separated() -> None:
    values = compute_curves(np.arange(20.0), np.arange(20.0) + 30)
    assert values == (1.0, 1.0, 1.0, 0.0)


@pytest.fixture(scope="module")
def noise_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve images of noise."""
    folder = tmp_path_factory.mktemp("noise")
    generator = torch.Generator().manual_seed(0)
    for index in range(12):
        image = to_image(torch.rand(3, 32, 32, generator=generator))
        save_image(folder / f"{index}.png", image)
    return folder


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals of few resamples, which take less time."""
    for module in (curves, measure):
        monkeypatch.setattr(module, "RESAMPLES", 40)


def read_rows(rows: UnknownRows) -> dict[tuple[str, str, str], float]:
    return {(row.method, row.images, row.metric): row.value for row in rows}


@pytest.mark.usefixtures("few_resamples")
def test_rows_are_the_numbers_of_their_scores(
    tiny_card: Path, noise_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier = open_classifier(tiny_card)
    known, noise = open_images(PLANTED), open_images(str(noise_folder))
    methods = {"energy": Energy(), "mahalanobis": LayerMahalanobis()}
    rows = measure_unknown(classifier, known, {"noise": noise}, methods, tmp_path)
    values = read_rows(rows)
    assert values["mahalanobis", "noise", "auroc"] > 0.95
    assert {row.metric for row in rows} <= METRICS.keys()
    assert {row.n for row in rows if row.images == "known"} == {15}
    assert {row.n for row in rows if row.images == "noise"} == {12}
    assert values["energy", "known", "accuracy"] == values["mahalanobis", "known", "accuracy"]
    assert all(row.ci95[0] <= row.value <= row.ci95[1] for row in rows)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["fitted_to"] == 30 and content["false_alarms"] == 0.05
    assert len(content["rows"]) == len(rows)
    # a further method and further images: the first method is neither fitted nor scored again

    def refuse(*values: object) -> None:
        raise AssertionError("fitted again")

    monkeypatch.setattr(LayerMahalanobis, "fit", refuse)
    more = {**methods, "softmax": MaxSoftmax()}
    others = {"noise": noise, "blank": open_images(str(noise_folder))}
    again = read_rows(measure_unknown(classifier, known, others, more, tmp_path))
    assert {key: again[key] for key in values} == values
    assert ("softmax", "blank", "auroc") in again


@pytest.mark.usefixtures("few_resamples")
def test_images_that_cannot_be_read_are_left_out(
    tiny_card: Path, noise_folder: Path, damage_images: Any, tmp_path: Path
) -> None:
    classifier, methods = open_classifier(tiny_card), {"softmax": MaxSoftmax()}
    known, noise = open_images(PLANTED), open_images(str(noise_folder))
    damaged, others = damage_images(known, {4}), damage_images(noise, {0, 2})
    with redirect_warnings(lambda line: None):
        rows = measure_unknown(classifier, damaged, {"fit": others}, methods, tmp_path, fit=known)
    assert {row.n for row in rows if row.images == "fit"} == {10}
    content = json.loads((tmp_path / "results.json").read_text())
    names = {known.name: [known.names[4]], noise.name: [noise.names[0], noise.names[2]]}
    assert content["left_out"] == names
    measure_unknown(classifier, damaged, {"fit": noise}, methods, tmp_path, fit=known)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["left_out"] == {known.name: [known.names[4]]}
    whole = damage_images(noise, range(len(noise)))
    for sources in ((known, {"noise": whole}, None), (known, {"noise": noise}, whole)):
        with pytest.raises(ImageError, match=r"png: damaged or cut short$"):
            measure_unknown(classifier, *sources[:2], methods, tmp_path / "none", fit=sources[2])
    odd = {0, 2, *range(1, 60, 2)}
    with pytest.raises(ImagesError, match=r"at least 40 images, got 28"):
        measure_unknown(
            classifier, damage_images(known, odd), {"n": noise}, methods, tmp_path / "few"
        )


@pytest.mark.usefixtures("few_resamples")
def test_a_later_call_keeps_the_rows_of_earlier_ones(
    tiny_card: Path, noise_folder: Path, tmp_path: Path
) -> None:
    """Rows stay, in groups, unless their name means something else now; nothing is mixed."""
    classifier, known = open_classifier(tiny_card), open_images(PLANTED)
    noise, blank = open_images(str(noise_folder)), open_images("planted:size=32,images=12")

    def measure_again(
        others: dict[str, ImageSource], methods: dict[str, UnknownMethod], **options: Any
    ) -> UnknownRows:
        return measure_unknown(classifier, known, others, methods, tmp_path, **options)

    first = measure_again({"noise": noise}, {"energy": Energy()})
    measure_again({"noise": noise}, {"softmax": MaxSoftmax()})
    rows = measure_again({"blank": blank}, {"energy": Energy()})
    stored = json.loads((tmp_path / "results.json").read_text())
    assert [tuple(row.values())[:3] for row in stored["rows"]] == [row[:3] for row in rows]
    assert list(dict.fromkeys(row[:2] for row in rows)) == [
        *(("energy", "known"), ("energy", "noise"), ("energy", "blank")),
        *(("softmax", "known"), ("softmax", "noise")),
    ]
    assert len({row[:3] for row in rows}) == len(rows) and set(first) <= set(rows)
    assert set(stored["unknown"]) == {"noise", "blank"}
    for options, says in (
        ({"seed": 1}, "had seed 0, now 1"),
        ({"limit": 50}, "had limit nothing, now 50; use the same, or choose another --out"),
        ({"false_alarms": 0.1}, "had false_alarms 0.05, now 0.1"),
        ({"fit": known}, "had fit nothing, now planted"),
    ):
        with pytest.raises(RunError, match=says):
            measure_again({"noise": noise}, {"energy": Energy()}, **options)
    assert json.loads((tmp_path / "results.json").read_text()) == stored
    lines: list[str] = []
    with redirect_warnings(lines.append):
        rows = measure_again({"noise": blank}, {"energy": Energy()})
        assert {row[:2] for row in rows if row.images == "noise"} == {("energy", "noise")}
        rows = measure_again({"noise": blank}, {"softmax": Energy(2.0)})
    assert [line.rpartition(": ")[2] for line in lines] == ["images noise", "method softmax"]
    assert ("softmax", "blank") not in {row[:2] for row in rows}
    # a file of an earlier version, which says less of itself, stays readable
    old = {key: value for key, value in stored.items() if not key.endswith("_digest")}
    del old["definitions"], old["fit"]
    (tmp_path / "results.json").write_text(json.dumps(old))
    assert len(measure_again({"noise": noise}, {"energy": Energy()})) == len(stored["rows"])
    (tmp_path / "results.json").write_text('{"rows": [{"attack": "pgd"}]}')
    with pytest.raises(RunError, match="damaged, or of another command; choose another --out"):
        measure_again({"noise": noise}, {"energy": Energy()})


def test_thresholds_keep_the_stated_rate(
    tiny_card: Path, noise_folder: Path, tmp_path: Path
) -> None:
    """On many images, the rate that is measured is that which was stated."""
    classifier = open_classifier(tiny_card)
    known = open_images("planted:size=32,images=240,classes=3,difficulty=0")
    rows = measure_unknown(
        classifier,
        known,
        {"noise": open_images(str(noise_folder))},
        {"energy": Energy()},
        tmp_path,
        false_alarms=0.2,
    )
    (row,) = [row for row in rows if row.metric == "false_alarms"]
    assert row.n == 60 and row.ci95[0] <= 0.2 <= row.ci95[1]


def test_maps_are_judged_where_the_unknown_is_marked(
    tiny_card: Path, tmp_path: Path, noise_folder: Path
) -> None:
    classifier = open_classifier(tiny_card)
    rows = measure_unknown(
        classifier,
        open_images(PLANTED),
        {"marked": open_images(PLANTED), "noise": open_images(str(noise_folder))},
        parse_unknown_methods("mahalanobis:maps=true"),
        tmp_path,
    )
    pixels = {row.metric: row for row in rows if row.metric in ("pixel_auroc", "pointing")}
    assert {row.images for row in pixels.values()} == {"marked"}
    assert set(pixels) == {"pixel_auroc", "pointing"} and pixels["pointing"].n == 60


def test_what_cannot_be_measured(tiny_card: Path, noise_folder: Path, tmp_path: Path) -> None:
    classifier, known = open_classifier(tiny_card), open_images(PLANTED)
    noise = open_images(str(noise_folder))
    energy = {"energy": Energy()}
    with pytest.raises(ConfigError, match="at least one other kind"):
        measure_unknown(classifier, known, {}, energy, tmp_path / "a")
    with pytest.raises(ConfigError, match="fraction between 0 and 1, got 1"):
        measure_unknown(
            classifier, known, {"noise": noise}, energy, tmp_path / "a", false_alarms=1.0
        )
    with pytest.raises(ImagesError, match="has no labels, and openmax learns from them"):
        measure_unknown(classifier, noise, {"x": known}, {"openmax": OpenMax()}, tmp_path / "a")
    with pytest.raises(ImagesError, match="expected at least 40 images, got 12"):
        measure_unknown(classifier, noise, {"x": known}, energy, tmp_path / "a")
    with pytest.raises(ImagesError, match="is no class of the classifier"):
        other = open_images("planted:size=32,images=60,classes=4,difficulty=0")
        measure_unknown(classifier, other, {"noise": noise}, energy, tmp_path / "a")
