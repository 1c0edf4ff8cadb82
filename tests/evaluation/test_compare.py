from __future__ import annotations

import csv
import json
from dataclasses import dataclass, field, replace
from math import log
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from apercu import maps
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.errors import ApercuError, ConfigError, ImageError, ImagesError, OutputError, RunError
from apercu.evaluation import CompareSettings, ComparisonResults, MetricRow, run_comparison
from apercu.evaluation.gallery import draw_gallery
from apercu.evaluation.ranking import find_reference
from apercu.evaluation.report import write_report
from apercu.evaluation.report.tables import format_markdown
from apercu.evaluation.sample import EvalBatch, draw_sample, split_indices
from apercu.evaluation.scores import MetricInputs, compute_metric
from apercu.images import ImageSource, Item
from apercu.log import redirect_warnings
from apercu.methods import (
    CentreBox,
    Gradient,
    MapExplainer,
    Requirement,
    TrainedMethod,
    TrueBox,
    WholeBox,
)
from apercu.metrics import (
    RoadSettings,
    dauc,
    energy,
    flip_pixels,
    iou,
    localisation_error,
    make_metric,
    max_sensitivity,
    pointing_game,
    randomisation,
    road,
    saliency_metric,
)
from apercu.metrics.flipping import compute_area, compute_calibration, make_deletion_and_insertion
from apercu.metrics.max_sensitivity import SensitivityNoise
from apercu.metrics.registry import METRICS

SIZE, COUNT = 32, 12


@dataclass(frozen=True)
class Squares(ImageSource):
    """A bright square (class `bright`) or a dark one (`dark`) on grey, whose position is known."""

    count: int = COUNT
    true_objects: bool = True
    labelled: bool = True
    name: ClassVar[str] = "squares"
    class_names: ClassVar[tuple[str, ...]] = ("dark", "bright")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{index}.png" for index in range(self.count))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Item:
        left, top = 4 + (index * 5) % 30, 2 + (index * 3) % 20
        region = torch.zeros(40, 64, dtype=torch.bool)
        region[top : top + 16, left : left + 24] = True
        picture = torch.full((3, 40, 64), 0.5)
        picture[:, region] = float(index % 2)
        return Item(
            name=f"{index}.png",
            picture=picture,
            label=self.class_names[index % 2] if self.labelled else None,
            boxes=maps.tight_boxes(region[None]) if self.true_objects else None,
            region=region if self.true_objects else None,
        )


class Brightness(nn.Module):
    """Logits ∓ the mean brightness: sure of a square once it fills the image."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(6.0))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        score = self.gain * (images.mean(dim=(1, 2, 3)) - 0.5)
        return torch.stack((-score, score), dim=1)


@pytest.fixture
def classifier() -> Classifier:
    spec = InputSpec(channels=3, size=(SIZE, SIZE))
    card = ClassifierCard(source="tests:brightness", input=spec, classes=("dark", "bright"))
    return wrap_module(Brightness(), card)


@dataclass
class Contrast:
    """An explainer that is right: how far each pixel is from grey, on a scale of its own."""

    map_scale: str = "mask"
    scale: float = 1.0
    training_seconds: float = 90.0
    needs: tuple[Requirement, ...] = ("training",)
    batch_sizes: list[int] = field(default_factory=list)

    @property
    def cache_key(self) -> str:
        return f"contrast {self.map_scale} {self.scale}"

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        self.batch_sizes.append(len(images))
        return (images - 0.5).abs().mean(dim=1) * 2 * self.scale


UNNAMED = {name for name, metric in METRICS.items() if not metric.by_name_only}
CUT = ("saliency_metric", "localisation_error", "iou")
FAST = CompareSettings(metrics=CUT, batch=4, cost_batches=())


def rows_of(results: ComparisonResults) -> dict[tuple[str, str], MetricRow]:
    return {(row.explainer, row.metric): row for row in results.rows}


def make_inputs(
    classifier: Classifier,
    batch: EvalBatch,
    found_maps: torch.Tensor,
    explainer: MapExplainer | TrueBox | None = None,
) -> MetricInputs:
    return MetricInputs(explainer or Contrast(), classifier, batch, found_maps, steps=5)


def test_values_are_the_literal_means_over_the_test_half(classifier: Classifier) -> None:
    explainers = {"mask": Contrast(), "centre_box": CentreBox(), "true_box": TrueBox()}
    rows = rows_of(run_comparison(classifier, Squares(), explainers, FAST))
    _, test = split_indices(COUNT, None, 0)
    saliency, error, overlap = [], [], []
    for index in test:
        item = Squares()[index]
        image = classifier.prepare(item.picture)[None]
        assert item.boxes is not None
        truth = item.boxes * torch.tensor([SIZE / 64, SIZE / 40, SIZE / 64, SIZE / 40])
        box = maps.tight_boxes(CentreBox()(classifier, image, torch.tensor([0])) >= 0.5)
        target = torch.tensor([index % 2])
        saliency.append(saliency_metric(classifier, image, target, box).item())
        error.append(localisation_error(box, truth[None]).item())
        region = torch.nn.functional.interpolate(
            item.region[None, None].float(), (SIZE, SIZE), mode="bilinear", antialias=True
        )
        chosen = CentreBox()(classifier, image, target) >= 0.5
        overlap.append(iou(chosen, region[0] >= 0.5).item())
    for metric, values in (
        ("saliency_metric", saliency),
        ("localisation_error", error),
        ("iou", overlap),
    ):
        row = rows["centre_box", metric]
        assert row.value == pytest.approx(np.mean(values), abs=1e-6)
        assert (row.n, row.threshold, row.threshold_from) == (6, None, None)
        assert row.ci95[0] <= row.value <= row.ci95[1]
    assert rows["true_box", "localisation_error"].value == 0
    assert rows["mask", "iou"].value > 0.9
    assert rows["mask", "iou"].better == "higher"


def test_the_threshold_comes_from_the_tune_half_and_is_reported(classifier: Classifier) -> None:
    faint = Contrast(scale=0.3)
    rows = rows_of(run_comparison(classifier, Squares(), {"mask": faint}, FAST))
    row = rows["mask", "localisation_error"]
    assert row.value == 0
    assert row.threshold is not None
    assert row.threshold <= 0.3
    assert row.threshold_from == "tune half, 6 images"
    fixed = rows["mask:threshold=0.5", "localisation_error"]
    assert (fixed.value, fixed.threshold, fixed.threshold_from) == (1, 0.5, "fixed")


def test_the_best_of_the_grid_is_taken_for_each_metric(classifier: Classifier) -> None:
    explainer = Contrast(scale=0.7)
    rows = rows_of(run_comparison(classifier, Squares(), {"mask": explainer}, FAST))
    sample = draw_sample(classifier, Squares(), None, 0)
    (batch,) = sample.read_batches(classifier, sample.tune, 100)
    inputs = make_inputs(
        classifier, batch, explainer(classifier, batch.images, batch.targets), explainer
    )
    for metric, best in (("saliency_metric", min), ("localisation_error", min), ("iou", max)):
        means = {
            threshold: compute_metric(METRICS[metric], inputs, [threshold]).double().mean().item()
            for threshold in FAST.thresholds
        }
        chosen = rows["mask", metric].threshold
        assert chosen is not None
        assert means[chosen] == pytest.approx(best(means.values()))


def test_an_image_is_in_the_same_half_whatever_the_limit() -> None:
    tune, test = (set(half) for half in split_indices(101, None, 3))
    for limit in (2, 7, 50, 100, 500):
        fewer = [set(half) for half in split_indices(101, limit, 3)]
        assert fewer[0] <= tune and fewer[1] <= test
        assert len(fewer[0]) + len(fewer[1]) == min(limit, 101)
        assert 0 <= len(fewer[1]) - len(fewer[0]) <= 1
    assert tune | test == set(range(101))


@dataclass(frozen=True)
class SomeDamaged(Squares):
    """The squares, of which some cannot be read."""

    damaged: frozenset[int] = frozenset()

    def __getitem__(self, index: int) -> Item:
        if index in self.damaged:
            raise ImageError(f"{index}.png: damaged or cut short")
        return super().__getitem__(index)


def test_for_an_image_that_cannot_be_read_another_one_of_its_half_is_drawn(
    classifier: Classifier,
) -> None:
    whole = split_indices(COUNT, None, 0)
    limited = draw_sample(classifier, Squares(), 4, 0)
    damaged = frozenset((limited.tune[0].index, limited.test[-1].index))
    lines: list[str] = []
    with redirect_warnings(lines.append):
        sample = draw_sample(classifier, SomeDamaged(damaged=damaged), 4, 0)
    assert [len(half) for half in (sample.tune, sample.test)] == [2, 2]
    for half, everything in zip((sample.tune, sample.test), whole, strict=True):
        assert {record.index for record in half} <= set(everything) - damaged
        assert [record.index for record in half] == sorted(record.index for record in half)
    assert limited.tune[1] in sample.tune and limited.test[0] in sample.test
    assert sample.left_out == tuple(f"{index}.png" for index in sorted(damaged))
    assert sample.digest != limited.digest
    (line,) = lines
    assert line.startswith("squares: 2 of 6 images cannot be read and are left out, the first beca")
    again = draw_sample(classifier, SomeDamaged(damaged=damaged), 4, 0)
    assert again.digest == sample.digest


def test_without_an_image_to_draw_instead_the_sample_is_smaller(classifier: Classifier) -> None:
    source = SomeDamaged(damaged=frozenset((1, 5)))
    sample = draw_sample(classifier, source, None, 0)
    assert {record.index for record in sample.everything} == set(range(COUNT)) - {1, 5}
    everything = frozenset(range(COUNT))
    for limit in (4, None):
        with pytest.raises(ImageError, match="png: damaged"):
            draw_sample(classifier, SomeDamaged(damaged=everything), limit, 0)
    with pytest.raises(ImagesError, match=r"at least 2 images that can be read.*got 1; .*damaged"):
        draw_sample(classifier, SomeDamaged(damaged=everything - {3}), None, 0)


def test_a_comparison_says_what_it_left_out_and_keeps_its_sample(
    classifier: Classifier, tmp_path: Path
) -> None:
    chosen = draw_sample(classifier, Squares(), 6, 0).test[0].index
    explainers = {"mask": Contrast()}
    settings = replace(FAST, limit=6)
    for damaged in (chosen, chosen):  # a second call continues the folder
        source = SomeDamaged(damaged=frozenset((damaged,)))
        results = run_comparison(classifier, source, explainers, settings, out=tmp_path)
    text = f"eft out, as they cannot be used: {chosen}.png"
    assert text in format_markdown(results)
    drawn = draw_gallery(classifier, source, explainers, results)
    assert f"{chosen}.png" not in [image.name for image in drawn]
    write_report(results, drawn, tmp_path / "report.html")
    assert text in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(RunError, match="begun here had"):
        run_comparison(classifier, Squares(), explainers, settings, out=tmp_path)


def test_labels_that_are_no_class_name_the_images() -> None:
    spec = InputSpec(channels=3, size=(SIZE, SIZE))
    card = ClassifierCard(source="tests:brightness", input=spec, classes=("night", "day"))
    with pytest.raises(
        ImagesError, match=r"squares: the label '\w+' is no class .* without labels"
    ):
        draw_sample(wrap_module(Brightness(), card), Squares(), None, 0)


def test_the_seed_reaches_the_draws_of_every_metric(classifier: Classifier) -> None:
    sample = draw_sample(classifier, Squares(), None, 0)
    (batch,) = sample.read_batches(classifier, sample.test, COUNT)
    inputs = batch.images, batch.targets
    masks = Contrast()(classifier, *inputs)
    expected = {
        "road": lambda seed: road(classifier, *inputs, masks, RoadSettings(seed=seed)),
        "max_sensitivity": lambda seed: max_sensitivity(
            Contrast(), classifier, *inputs, SensitivityNoise(seed=seed)
        ),
        "randomisation": lambda seed: randomisation(Gradient(), classifier, *inputs, seed),
    }
    for metric, of in expected.items():
        explainer = Gradient() if metric == "randomisation" else Contrast()
        explained = explainer(classifier, *inputs)
        for seed in (0, 7):
            given = MetricInputs(explainer, classifier, batch, explained, steps=5, seed=seed)
            assert torch.equal(compute_metric(METRICS[metric], given, ())[0], of(seed)), (
                metric,
                seed,
            )
    assert not torch.equal(expected["road"](0), expected["road"](7))
    assert not torch.equal(expected["max_sensitivity"](0), expected["max_sensitivity"](7))


def test_the_half_that_chooses_is_not_the_half_that_is_reported() -> None:
    tune, test = split_indices(101, None, 3)
    assert sorted(tune + test) == list(range(101))
    assert abs(len(tune) - len(test)) == 1
    assert split_indices(101, None, 3) == (tune, test)
    assert split_indices(101, None, 4) != (tune, test)
    few = split_indices(101, 10, 3)
    assert len(few[0]) == len(few[1]) == 5


def test_without_thresholds_all_images_are_reported(classifier: Classifier) -> None:
    settings = replace(FAST, metrics=("ncc", "pointing_game"), limit=None)
    rows = rows_of(run_comparison(classifier, Squares(), {"mask": Contrast()}, settings))
    assert {row.n for row in rows.values()} == {COUNT}
    tune, test = split_indices(101, 10, 3)
    assert split_indices(101, 10, 3, halves=False) == ([], sorted(tune + test))


def test_a_metric_with_a_threshold_takes_no_image_from_the_others(
    classifier: Classifier, tmp_path: Path
) -> None:
    whole = ("pointing_game", "energy", "dauc", "background_invariance")
    settings = replace(FAST, metrics=whole, steps=4)
    alone = run_comparison(classifier, Squares(), {"mask": Leaning()}, settings)
    mixed = replace(settings, metrics=(*whole, "iou"))
    both = run_comparison(classifier, Squares(), {"mask": Leaning()}, mixed, out=tmp_path)
    assert [(row.metric, row.n) for row in both.rows if row.explainer == "mask"] == [
        ("iou", COUNT // 2),
        *((metric, COUNT) for metric in METRICS if metric in whole),
    ]
    for metric in whole:
        first, second = (rows_of(results)["mask", metric] for results in (alone, both))
        assert first.value == pytest.approx(second.value, abs=1e-6), metric
        assert first.ci95 == pytest.approx(second.ci95, abs=1e-6), metric
        assert both.scores["mask", metric] == pytest.approx(alone.scores["mask", metric], abs=1e-6)
        assert list(both.scores["mask", metric]) == [f"{index}.png" for index in range(COUNT)]
    curves = zip(both.curves["mask"]["deletion"], alone.curves["mask"]["deletion"], strict=True)
    assert all(now == pytest.approx(then, abs=1e-6) for now, then in curves)
    text = both.to_markdown()
    assert f"on {COUNT} of them" in text and f"IoU ↑ ({COUNT // 2} images)" in text
    report = write_report(both, (), tmp_path / "report.html").read_text()
    assert f"; {COUNT} images" in report and f"; {COUNT // 2} images" in report
    again = run_comparison(classifier, Squares(), {"mask": Leaning()}, mixed, out=tmp_path)
    assert again.rows == both.rows
    with pytest.raises(RunError, match="had whole_maps all, now half"):
        halves = replace(mixed, whole_maps="half")
        run_comparison(classifier, Squares(), {"mask": Leaning()}, halves, out=tmp_path)


def test_a_comparison_of_version_0_1_is_continued_on_one_half(
    classifier: Classifier, tmp_path: Path
) -> None:
    settings = replace(FAST, metrics=("energy", "iou"), whole_maps="half")
    first = run_comparison(classifier, Squares(), {"mask": Contrast()}, settings, out=tmp_path)
    stored = json.loads((tmp_path / "results.json").read_text())["settings"]
    assert set(stored) == {  # as version 0.1.0 wrote them
        *("metrics", "limit", "seed", "batch", "thresholds", "steps", "repeats", "cost_batches"),
    }
    usual = replace(settings, whole_maps="all")
    both = {"mask": Contrast(), "centre_box": CentreBox()}
    results = run_comparison(classifier, Squares(), both, usual, out=tmp_path)
    assert {row.n for row in results.rows} == {COUNT // 2}
    assert set(first.rows) < set(results.rows)


def test_with_two_folds_each_half_chooses_for_the_other(
    classifier: Classifier, tmp_path: Path
) -> None:
    """Every image is judged at a threshold that other images chose: by hand, fold by fold."""
    settings = replace(FAST, metrics=("energy", "iou"), thresholds_from="folds")
    explainers = {"mask": Leaning(), "map": Contrast("map"), "centre_box": CentreBox()}
    both = run_comparison(classifier, Squares(), explainers, settings, out=tmp_path)
    assert {row.n for row in both.rows} == {COUNT}
    sample = draw_sample(classifier, Squares(), None, settings.seed)
    by_level = {
        level: run_comparison(
            classifier, Squares(), {"mask": Leaning()}, replace(settings, thresholds=(level,))
        ).scores["mask", "iou"]
        for level in settings.thresholds
    }
    halves = [{record.name for record in half} for half in (sample.tune, sample.test)]
    for reported, choosing in (halves, halves[::-1]):
        best = max(by_level, key=lambda at: sum(by_level[at][name] for name in choosing))
        for name in reported:
            assert both.scores["mask", "iou"][name] == pytest.approx(by_level[best][name])
    row = rows_of(both)["mask", "iou"]
    values = both.scores["mask", "iou"].values()
    assert row.value == pytest.approx(sum(values) / COUNT)
    assert row.threshold_from is not None and row.threshold_from.startswith("tune half, ")
    assert f"{COUNT - COUNT // 2} images" in row.threshold_from
    again = run_comparison(classifier, Squares(), explainers, settings, out=tmp_path)
    assert again.rows == both.rows
    with pytest.raises(RunError, match="had thresholds_from folds, now half"):
        halves = replace(settings, thresholds_from="half")
        run_comparison(classifier, Squares(), explainers, halves, out=tmp_path)
    same = replace(settings, thresholds_from="same")
    in_hindsight = rows_of(run_comparison(classifier, Squares(), explainers, same))["mask", "iou"]
    means = {level: sum(values.values()) / COUNT for level, values in by_level.items()}
    assert in_hindsight.value == pytest.approx(max(means.values()))
    assert in_hindsight.n == COUNT and in_hindsight.value >= row.value
    assert in_hindsight.threshold_from == f"the same images, in hindsight, {COUNT} images"


def test_maps_are_stretched_and_masks_are_not(classifier: Classifier) -> None:
    faint = {"map": Contrast("map", 0.01), "mask": Contrast("mask", 0.01)}
    rows = rows_of(run_comparison(classifier, Squares(), faint, FAST))
    assert rows["map", "iou"].value > 0.9
    assert rows["mask", "iou"].value == 0
    assert ("map:threshold=0.5", "iou") not in rows


def test_the_saliency_metric_at_many_thresholds_is_the_one_of_each(classifier: Classifier) -> None:
    sample = draw_sample(classifier, Squares(), 8, 1)
    (batch,) = sample.read_batches(classifier, sample.tune, 100)
    random_maps = torch.rand(
        batch.images.shape[0], 8, 8, generator=torch.Generator().manual_seed(0)
    )
    random_maps = maps.resize_maps(random_maps, (SIZE, SIZE))
    levels = (0.1, 0.11, 0.5, 0.8, 0.99)
    together = compute_metric(
        METRICS["saliency_metric"], make_inputs(classifier, batch, random_maps), levels
    )
    for threshold, scores in zip(levels, together, strict=True):
        boxes = maps.tight_boxes(random_maps >= threshold)
        literal = saliency_metric(classifier, batch.images, batch.targets, boxes)
        torch.testing.assert_close(scores, literal)


def test_equal_boxes_are_computed_once(classifier: Classifier) -> None:
    sample = draw_sample(classifier, Squares(), 8, 1)
    (batch,) = sample.read_batches(classifier, sample.tune, 100)
    before = classifier.queries
    crisp = torch.zeros(4, SIZE, SIZE)
    crisp[:, 4:20, 4:20] = 1
    compute_metric(
        METRICS["saliency_metric"], make_inputs(classifier, batch, crisp), (0.1, 0.2, 0.3, 0.9)
    )
    assert classifier.queries - before == 4


def test_several_true_boxes_score_their_mean(classifier: Classifier) -> None:
    truths = torch.zeros(2, 2, 4)
    truths[0] = torch.tensor([[0, 0, 8, 8], [8, 8, 32, 32]])
    truths[1, 0] = torch.tensor([4, 4, 20, 20])
    images = torch.rand(2, 3, SIZE, SIZE)
    targets = torch.tensor([0, 1])
    regions, sizes = torch.zeros(2, SIZE, SIZE, dtype=torch.bool), torch.tensor([[SIZE, SIZE]] * 2)
    batch = EvalBatch((), images, targets, truths, regions, sizes)
    boxed = make_inputs(classifier, batch, TrueBox()(images, truths), TrueBox())
    scores = compute_metric(METRICS["saliency_metric"], boxed, (0.5,))
    first, second = (saliency_metric(classifier, images, targets, truths[:, k]) for k in (0, 1))
    torch.testing.assert_close(scores, torch.stack([(first[0] + second[0]) / 2, first[1]])[None])


def test_without_truth_only_what_needs_none_is_measured(classifier: Classifier) -> None:
    everything = replace(FAST, metrics=None, steps=4)
    results = run_comparison(
        classifier, Squares(true_objects=False), {"whole_box": WholeBox()}, everything
    )
    needless = {name for name in UNNAMED if METRICS[name].truth == "none"}
    assert {row.metric for row in results.rows} == needless
    settings = replace(FAST, metrics=("localisation_error",))
    with pytest.raises(ImagesError, match="squares: localisation_error needs true boxes"):
        run_comparison(classifier, Squares(true_objects=False), {"whole_box": WholeBox()}, settings)
    with pytest.raises(ImagesError, match="squares: true_box needs true boxes"):
        run_comparison(
            classifier,
            Squares(true_objects=False),
            {"true_box": TrueBox()},
            replace(FAST, metrics=("saliency_metric",)),
        )


def test_metrics_of_whole_maps_are_those_of_the_package(classifier: Classifier) -> None:
    settings = replace(FAST, metrics=None, steps=5)
    explainers = {"mask": Contrast(), "true_box": TrueBox()}
    rows = rows_of(run_comparison(classifier, Squares(), explainers, settings))
    assert {metric for _, metric in rows} == UNNAMED
    again = {name for name, metric in METRICS.items() if metric.explains_again}
    assert {metric for name, metric in rows if name == "true_box"} == UNNAMED - again
    sample = draw_sample(classifier, Squares(), None, 0)
    (batch,) = sample.read_batches(classifier, sample.everything, COUNT)
    masks = Contrast()(classifier, batch.images, batch.targets)
    flipped = flip_pixels(
        classifier,
        batch.images,
        batch.targets,
        masks,
        replace(make_deletion_and_insertion(classifier.zero_colour)[0], steps=5),
    )
    expected = {
        "pointing_game": pointing_game(masks, batch.regions),
        "energy": energy(masks, batch.regions),
        "dauc": dauc(flipped),
        "road": road(classifier, batch.images, batch.targets, masks),
        "max_sensitivity": max_sensitivity(Contrast(), classifier, batch.images, batch.targets),
    }
    for metric, scores in expected.items():
        row = rows["mask", metric]
        assert (row.n, row.threshold, row.better) == (COUNT, None, METRICS[metric].better)
        assert row.value == pytest.approx(scores.mean().item(), abs=1e-5), metric


@dataclass
class Signed(Contrast):
    """As right as can be: 1 on the object, and as strong a counter-evidence elsewhere."""

    map_scale: str = "map"

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        return torch.where(super().__call__(classifier, images, targets) > 0.5, 1.0, -1.0)


def test_evidence_against_the_class_is_no_evidence(classifier: Classifier) -> None:
    settings = replace(FAST, metrics=("energy",))
    rows = rows_of(run_comparison(classifier, Squares(), {"signed": Signed()}, settings))
    assert rows["signed", "energy"].value > 0.95


def test_metrics_read_off_one_curve_flip_it_once(classifier: Classifier) -> None:
    sample = draw_sample(classifier, Squares(), 8, 1)
    (batch,) = sample.read_batches(classifier, sample.tune, 100)
    random_maps = torch.rand(4, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    inputs = make_inputs(classifier, batch, random_maps)
    for metrics, points in {("dauc", "dc"): 6, ("iauc", "ic"): 6, ("dauc_nc", "dc_nc"): 6}.items():
        before = classifier.queries
        values = [compute_metric(METRICS[metric], inputs, (0.5,)) for metric in metrics]
        assert classifier.queries - before == 4 * points
        assert not torch.equal(*values)


def test_metrics_that_must_be_named_are_those_of_the_package(classifier: Classifier) -> None:
    named = tuple(name for name in METRICS if name.endswith("_nc"))
    settings = replace(FAST, metrics=named, steps=5)
    rows = rows_of(run_comparison(classifier, Squares(), {"mask": Contrast()}, settings))
    sample = draw_sample(classifier, Squares(), None, 0, halves=False)
    (batch,) = sample.read_batches(classifier, sample.test, COUNT)
    masks = Contrast()(classifier, batch.images, batch.targets)
    lone = [
        flip_pixels(
            classifier,
            batch.images,
            batch.targets,
            masks,
            replace(flipping, steps=5, cumulative=False),
        )
        for flipping in make_deletion_and_insertion(classifier.zero_colour)
    ]
    expected = dict(zip(("dauc_nc", "iauc_nc"), map(compute_area, lone), strict=True))
    expected |= dict(zip(("dc_nc", "ic_nc"), map(compute_calibration, lone), strict=True))
    assert set(expected) == set(named)
    for metric, scores in expected.items():
        assert rows["mask", metric].value == pytest.approx(scores.mean().item(), abs=1e-5), metric


def test_objects_are_masks_where_there_are_and_boxes_elsewhere(classifier: Classifier) -> None:
    sample = draw_sample(classifier, Squares(), None, 0)
    (batch,) = sample.read_batches(classifier, sample.test, COUNT)
    blank = torch.zeros_like(batch.regions[:1])
    mixed = replace(batch, regions=torch.cat([blank, batch.regions[1:]]))
    assert torch.equal(mixed.objects[1:], batch.regions[1:])
    left, top, right, bottom = batch.true_boxes[0, 0].tolist()
    inside = mixed.objects[0, int(top) + 1 : int(bottom), int(left) + 1 : int(right)]
    assert inside.all() and mixed.objects[0].sum() <= (right - left + 2) * (bottom - top + 2)


def test_without_labels_the_top_class_is_the_target(classifier: Classifier) -> None:
    results = run_comparison(classifier, Squares(labelled=False), {"whole_box": WholeBox()}, FAST)
    assert results.key.targets == "top"
    assert rows_of(results)["whole_box", "saliency_metric"].value < -log(0.5)


def test_constant_maps_are_counted(classifier: Classifier, tmp_path: Path) -> None:
    class Flat(Contrast):
        cache_key = "flat"

        def __call__(self, *given: Any) -> torch.Tensor:
            return torch.ones_like(super().__call__(*given))

    explainers = {"whole_box": WholeBox(), "right": Contrast(), "flat": Flat()}
    results = run_comparison(classifier, Squares(), explainers, FAST)
    images = len(results.scores["whole_box", "iou"])
    assert results.constant == {"whole_box": images, "flat": images}
    said = f"Constant maps, which show nothing: flat on {images} images."
    assert said in str(results) and said in results.to_markdown()
    results.save(tmp_path)
    assert ComparisonResults.load(tmp_path).constant == results.constant
    content = json.loads((tmp_path / "results.json").read_text())
    del content["constant"]  # as older versions write it
    (tmp_path / "results.json").write_text(json.dumps(content))
    assert ComparisonResults.load(tmp_path).constant == {}


def test_wrong_settings_are_one_line() -> None:
    with pytest.raises(ConfigError, match="got saliency_metrics; did you mean saliency_metric"):
        CompareSettings(metrics=("saliency_metrics",))
    with pytest.raises(ConfigError, match="limit: expected at least 2"):
        CompareSettings(limit=1)
    with pytest.raises(ConfigError, match=r"thresholds: expected values in \(0, 1\)"):
        CompareSettings(thresholds=(0.5, 1.0))
    with pytest.raises(ConfigError, match="expected at least 1"):
        CompareSettings(repeats=0)


def test_one_image_is_too_few(classifier: Classifier) -> None:
    with pytest.raises(ImagesError, match="expected at least 2 images"):
        run_comparison(classifier, Squares(count=1), {"whole_box": WholeBox()}, FAST)


@dataclass(frozen=True)
class Broken:
    map_scale: ClassVar[str] = "map"
    training_seconds: ClassVar[float] = 0.0
    needs: ClassVar[tuple[Requirement, ...]] = ()
    cache_key: ClassVar[str] = "broken"
    fails: str = "nan"

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        broken_maps = images.mean(dim=1).clone()
        if self.fails == "nan" or len(images) > 1:
            broken_maps[-1, 0, 0] = torch.nan
        return broken_maps


def test_nan_is_an_error_and_never_a_mean(classifier: Classifier) -> None:
    line = r"broken: expected finite maps, got NaN .* for \d+\.png; leave out broken, or that image"
    with pytest.raises(ApercuError, match=line):
        run_comparison(classifier, Squares(), {"broken": Broken()}, FAST)


@dataclass(frozen=True)
class Greedy(Broken):
    """Works on so many images, and runs out of memory on more."""

    cache_key: ClassVar[str] = "greedy"
    most: int = 1

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        if len(images) > self.most:
            raise RuntimeError("out of memory\nand a long report")
        return images.mean(dim=1)


def test_a_fault_becomes_a_reason_and_stays_while_others_are_added(
    classifier: Classifier, tmp_path: Path
) -> None:
    explainers = {"greedy": Greedy(), "whole_box": WholeBox()}
    results = run_comparison(classifier, Squares(), explainers, FAST, out=tmp_path)
    why = "greedy: fails with RuntimeError (out of memory); leave it out, or correct it"
    assert results.failed == {"greedy": why}
    assert set(results.explainers) == {"whole_box"}
    turned = replace(FAST, metrics=CUT[::-1])
    later = run_comparison(classifier, Squares(), {"centre_box": CentreBox()}, turned, out=tmp_path)
    assert later.failed == {"greedy": why}
    assert set(later.explainers) == {"whole_box", "centre_box"}


def test_rows_stay_when_only_the_cost_cannot_be_measured(classifier: Classifier) -> None:
    settings = replace(FAST, cost_batches=(1, 5))
    results = run_comparison(classifier, Squares(), {"greedy": Greedy(most=4)}, settings)
    assert {row.metric for row in results.rows} == set(CUT)
    assert [cost.batch for cost in results.cost] == [1]
    assert results.failed["cost of greedy"].startswith(
        "cost of greedy: fails with RuntimeError (out of memory)"
    )


def test_finished_explainers_are_kept_and_not_measured_again(
    classifier: Classifier, tmp_path: Path
) -> None:
    mask = Contrast()
    both = {"mask": mask, "broken": Broken("later")}
    assert run_comparison(classifier, Squares(), both, FAST, out=tmp_path).rows
    kept = ComparisonResults.load(tmp_path)
    assert list(kept.explainers) == ["mask"]
    assert kept.failed["broken"].startswith("broken: expected finite maps, got NaN")
    mask.batch_sizes.clear()
    explainers = {"whole_box": WholeBox(), "mask": mask}
    results = run_comparison(classifier, Squares(), explainers, FAST, out=tmp_path)
    assert mask.batch_sizes == []
    assert list(results.explainers) == ["whole_box", "mask"]
    assert set(kept.rows) < set(results.rows)
    assert run_comparison(classifier, Squares(), explainers, FAST).rows == results.rows
    assert ComparisonResults.load(tmp_path).rows == results.rows
    assert ComparisonResults.load(tmp_path).scores == results.scores


def test_rows_of_methods_that_are_not_named_again_stay(
    classifier: Classifier, tmp_path: Path
) -> None:
    run_comparison(classifier, Squares(), {"mask": Contrast()}, FAST, out=tmp_path)
    results = run_comparison(
        classifier, Squares(), {"centre_box": CentreBox()}, FAST, out=tmp_path, command="again"
    )
    assert list(results.explainers) == ["centre_box", "mask"]
    assert {row.explainer for row in ComparisonResults.load(tmp_path).rows} >= {
        "mask",
        "centre_box",
    }
    calls = [(call.command, call.explainers) for call in ComparisonResults.load(tmp_path).calls]
    assert calls == [("apercu.compare(…)", ("mask",)), ("again", ("centre_box",))]


def test_an_explainer_under_a_new_name_takes_the_place_of_its_old_one(
    classifier: Classifier, tmp_path: Path
) -> None:
    first = run_comparison(classifier, Squares(), {"mask": Contrast()}, FAST, out=tmp_path)
    both = {"mask:run=a": Contrast(), "mask:run=b": Contrast(scale=0.9)}
    results = run_comparison(classifier, Squares(), both, FAST, out=tmp_path)
    assert list(results.explainers) == list(both)
    assert not both["mask:run=a"].batch_sizes and both["mask:run=b"].batch_sizes
    assert [call.explainers for call in results.calls] == [("mask:run=a",), ("mask:run=b",)]
    kept = rows_of(results)
    for (name, metric), row in rows_of(first).items():
        again = kept[name.replace("mask", "mask:run=a").replace("a:t", "a,t"), metric]
        assert again.value == row.value


def test_of_equal_explainers_one_is_renamed_and_a_name_may_change(
    classifier: Classifier, tmp_path: Path
) -> None:
    twins = {"a": Contrast(), "b": Contrast()}
    run_comparison(classifier, Squares(), twins, FAST, out=tmp_path)
    third = Contrast()
    results = run_comparison(classifier, Squares(), {"c": third}, FAST, out=tmp_path)
    assert not third.batch_sizes and set(results.explainers) == {"b", "c"}
    moved, new = Contrast(), Contrast(scale=0.9)
    results = run_comparison(classifier, Squares(), {"c": new, "b": moved}, FAST, out=tmp_path)
    assert new.batch_sizes and not moved.batch_sizes
    assert results.explainers == {"c": new.cache_key, "b": moved.cache_key}


class Costly(Contrast):
    """Explains, but not while its cost is measured."""

    broken = True

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        if self.broken and len(images) == 7:
            raise KeyboardInterrupt if self.scale == 0.5 else RuntimeError("no room")
        return super().__call__(classifier, images, targets)


def test_costs_may_be_left_out_and_added_later(classifier: Classifier, tmp_path: Path) -> None:
    settings = replace(FAST, cost_batches=(1,), repeats=1, cost=False)
    mask = Contrast()
    results = run_comparison(classifier, Squares(), {"mask": mask}, settings, out=tmp_path)
    assert results.rows and not results.cost and not results.failed
    later = replace(settings, cost=True)
    results = run_comparison(classifier, Squares(), {"mask": mask}, later, out=tmp_path)
    assert [cost.batch for cost in results.cost] == [1]
    results = run_comparison(classifier, Squares(), {"mask": mask}, settings, out=tmp_path)
    assert [cost.batch for cost in results.cost] == [1]


def test_costs_that_failed_are_measured_by_the_next_call(
    classifier: Classifier, tmp_path: Path
) -> None:
    settings = replace(FAST, cost_batches=(1, 7), repeats=1)
    explainer = Costly()
    results = run_comparison(classifier, Squares(), {"mask": explainer}, settings, out=tmp_path)
    assert [cost.batch for cost in results.cost] == [1]
    assert results.failed == {
        "cost of mask": "cost of mask: fails with RuntimeError (no room); "
        "leave it out, or correct it"
    }
    explainer.broken = False
    results = run_comparison(classifier, Squares(), {"mask": explainer}, settings, out=tmp_path)
    assert [cost.batch for cost in results.cost] == [1, 7]
    assert not results.failed


def test_rows_are_kept_when_interrupted_in_the_costs(
    classifier: Classifier, tmp_path: Path
) -> None:
    settings = replace(FAST, cost_batches=(7,), repeats=1)
    with pytest.raises(KeyboardInterrupt):
        run_comparison(classifier, Squares(), {"mask": Costly(scale=0.5)}, settings, out=tmp_path)
    assert {row.explainer for row in ComparisonResults.load(tmp_path).rows} >= {"mask"}


def test_an_explainer_that_is_another_one_now_is_measured_again(
    classifier: Classifier, tmp_path: Path
) -> None:
    mask = Contrast()
    run_comparison(classifier, Squares(), {"mask": mask}, FAST, out=tmp_path)
    mask.batch_sizes.clear()
    mask.scale = 0.9
    run_comparison(classifier, Squares(), {"mask": mask}, FAST, out=tmp_path)
    assert mask.batch_sizes


def test_the_same_classifier_under_another_name_goes_on(
    classifier: Classifier, tmp_path: Path
) -> None:
    first = run_comparison(classifier, Squares(), {"right": Contrast()}, FAST, out=tmp_path)
    renamed = Classifier(classifier.network, spec="moved/card.json")
    explainers = {"right": Contrast(), "box": CentreBox()}
    second = run_comparison(renamed, Squares(), explainers, FAST, out=tmp_path)
    assert rows_of(second).items() >= rows_of(first).items()
    assert [call.explainers for call in second.calls] == [("right",), ("box",)]


@pytest.mark.parametrize("change", ["seed", "targets", "fingerprint"])
def test_another_comparison_does_not_overwrite_the_first(
    change: str, classifier: Classifier, tmp_path: Path
) -> None:
    mask, source, settings = Contrast(), Squares(), FAST
    run_comparison(classifier, source, {"mask": mask}, settings, out=tmp_path)
    before = (tmp_path / "results.json").read_text()
    if change == "seed":
        settings = replace(FAST, seed=1)
    elif change == "targets":
        source = Squares(labelled=False)
    else:
        network = Brightness()
        nn.init.constant_(network.gain, 2.0)
        classifier = wrap_module(
            network,
            ClassifierCard(
                source="tests:brightness",
                input=classifier.network.input,
                classes=("dark", "bright"),
            ),
        )
    with pytest.raises(
        RunError, match=r"the comparison begun here had .*, or choose another --out"
    ):
        run_comparison(classifier, source, {"mask": mask}, settings, out=tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_a_full_disk_loses_nothing_that_was_written(
    classifier: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_comparison(classifier, Squares(), {"mask": Contrast()}, FAST, out=tmp_path)
    before = (tmp_path / "results.json").read_text()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        explainers = {"mask": Contrast(), "whole_box": WholeBox()}
        run_comparison(classifier, Squares(), explainers, FAST, out=tmp_path)
    assert (tmp_path / "results.json").read_text() == before


def test_the_files_say_what_was_measured(classifier: Classifier, tmp_path: Path) -> None:
    settings = CompareSettings(metrics=CUT, batch=4, repeats=2, cost_batches=(1, 3))
    explainers = {"mask": Contrast(), "gradient": Gradient(), "centre_box": CentreBox()}
    run_comparison(classifier, Squares(), explainers, settings, out=tmp_path)
    content = json.loads((tmp_path / "results.json").read_text())
    assert content["classifier"] == "tests:brightness"
    assert (content["fingerprint"], content["limit"]) == (classifier.fingerprint, COUNT)
    assert set(content["environment"]) >= {"python", "torch", "machine", "cores", "date", "seed"}
    centre = next(row for row in content["rows"] if row["explainer"] == "centre_box")
    assert set(centre) == {"explainer", "metric", "value", "ci95", "n", "better"}
    costs = {(cost["explainer"], cost["batch"]): cost for cost in content["cost"]}
    assert set(costs) == {(name, size) for name in ("mask", "gradient") for size in (1, 3)}
    assert all(cost["ms_per_image"] > 0 < cost["classifier_forwards"] for cost in content["cost"])
    assert costs["mask", 1]["training_seconds"] == 90
    with (tmp_path / "scores.csv").open() as file:
        lines = list(csv.DictReader(file))
    mine = [float(x["value"]) for x in lines if (x["explainer"], x["metric"]) == ("mask", "iou")]
    row = next(r for r in content["rows"] if (r["explainer"], r["metric"]) == ("mask", "iou"))
    assert np.mean(mine) == pytest.approx(row["value"])


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"rows": 3}')
    with pytest.raises(RunError, match=r"results\.json: cannot be read as results"):
        ComparisonResults.load(tmp_path)


def test_mean_curves_and_what_each_needs_are_kept(classifier: Classifier, tmp_path: Path) -> None:
    settings = replace(FAST, metrics=("dauc", "saliency_metric"), steps=5)
    explainers = {"mask": Contrast(), "true_box": TrueBox()}
    results = run_comparison(classifier, Squares(), explainers, settings, out=tmp_path)
    sample = draw_sample(classifier, Squares(), None, 0)
    (batch,) = sample.read_batches(classifier, sample.everything, COUNT)
    masks = Contrast()(classifier, batch.images, batch.targets)
    literal = flip_pixels(
        classifier,
        batch.images,
        batch.targets,
        masks,
        replace(make_deletion_and_insertion(classifier.zero_colour)[0], steps=5),
    )
    assert set(results.curves["mask"]) == {"deletion"}
    mean = literal.probabilities.mean(dim=0).tolist()
    assert results.curves["mask"]["deletion"] == pytest.approx(mean, abs=1e-6)
    assert results.needs == {"mask": ("training",), "true_box": ("truth",)}
    assert ComparisonResults.load(tmp_path) == results


def test_progress_counts_all_images_of_each_explainer(classifier: Classifier) -> None:
    received: list[tuple[str, int, int]] = []
    run_comparison(
        classifier,
        Squares(),
        {"mask": Contrast()},
        FAST,
        progress=lambda name, done, total: received.append((name, done, total)),
    )
    done = [count for name, count, total in received if (name, total) == ("mask", 12)]
    assert done == sorted(done) and set(done) == {0, 4, 6, 10, 12}
    assert ("reading images", 0, 12) in received


def test_a_trained_explainer_is_compared_like_a_method(classifier: Classifier) -> None:
    trained = TrainedMethod(
        lambda images, targets: Contrast()(classifier, images, targets), "w1", 5.0
    )
    plain = run_comparison(classifier, Squares(), {"mask": Contrast()}, FAST)
    assert run_comparison(classifier, Squares(), {"mask": trained}, FAST).rows == plain.rows


def test_the_background_does_not_depend_on_who_shares_the_batch(classifier: Classifier) -> None:
    settings = replace(FAST, metrics=("background_invariance",))
    scores = [
        run_comparison(
            classifier, Squares(), {"mask": Leaning()}, replace(settings, batch=batch)
        ).scores
        for batch in (1, 4, 100)
    ]
    assert scores[0] == scores[1] == scores[2]
    assert len(set(scores[0]["mask", "background_invariance"].values())) > 2


@dataclass
class Leaning(Contrast):
    """Leans on the brightest and the darkest quarter of the picture."""

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        make_inputs = super().__call__(classifier, images, targets)
        return make_inputs * torch.linspace(0, 1, make_inputs.shape[2]) + 0.1 * images.mean(dim=1)


@dataclass
class Lost(Contrast):
    """Gives NaN for a classifier with random weights."""

    def __call__(
        self, classifier: Classifier, images: torch.Tensor, targets: torch.Tensor
    ) -> torch.Tensor:
        computed = super().__call__(classifier, images, targets)
        return computed * float("nan") if "randomised" in classifier.network.digest else computed


@make_metric(better="lower", meaning="pixels whose evidence is above a tenth", percent=True)
def above_a_tenth(maps: torch.Tensor) -> torch.Tensor:
    return (maps > 0.1).float().mean(dim=(1, 2))


@make_metric(better="higher", meaning="the object inside the region")
def coverage(regions: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
    return (regions & objects).float().sum((2, 3)) / objects.float().sum((1, 2)).clamp(min=1)


def test_own_metrics_stand_in_every_table(classifier: Classifier, tmp_path: Path) -> None:
    settings = replace(FAST, metrics=(coverage, "iou", above_a_tenth))
    both = {"mask": Contrast(), "centre_box": CentreBox()}
    results = run_comparison(classifier, Squares(), both, settings, out=tmp_path)
    rows = rows_of(results)
    assert list(dict.fromkeys(row.metric for row in results.rows)) == [
        *("iou", "coverage", "above_a_tenth"),
    ]
    row = rows["mask", "coverage"]
    assert (row.n, row.better) == (COUNT // 2, "higher") and row.threshold is not None
    assert rows["mask", "above_a_tenth"].n == COUNT
    kept = ComparisonResults.load(tmp_path)
    assert kept == results and kept.get_metric("coverage") == coverage.record
    report = write_report(kept, (), tmp_path / "report.html").read_text()
    assert "pixels whose evidence is above a tenth" in report and "lower is better" in report
    assert "Above a tenth: pixels whose evidence is above a tenth; lower is better." in (
        kept.to_markdown()
    )
    assert "Above a tenth ↓" in kept.to_markdown() and "Coverage" in str(kept)
    assert "above a tenth" in kept._repr_html_()
    assert '"settings.own_metrics' not in report
    mask = Contrast()
    run_comparison(classifier, Squares(), {"mask": mask}, settings, out=tmp_path)
    assert not mask.batch_sizes


def test_another_version_of_an_own_metric_is_another_comparison(
    classifier: Classifier, tmp_path: Path
) -> None:
    run_comparison(
        classifier,
        Squares(),
        {"mask": Contrast()},
        replace(FAST, metrics=(above_a_tenth,)),
        out=tmp_path,
    )
    changed = replace(above_a_tenth, function=lambda maps: maps.amax(dim=(1, 2)))
    with pytest.raises(RunError, match=r"had settings.own_metrics.above_a_tenth .*, now "):
        settings = replace(FAST, metrics=(changed,))
        run_comparison(classifier, Squares(), {"mask": Contrast()}, settings, out=tmp_path)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda maps: maps.mean(), "from own, images 2, got a single number"),
        (lambda maps: maps.mean(dim=1), "from own, images 2, got 2 × 32"),
        (lambda maps: maps.nonsense, "own fails on 2 images: AttributeError"),
        (lambda maps: 3, "from own, images 2, got int"),
    ],
)
def test_an_own_metric_is_tried_before_anything_is_measured(
    classifier: Classifier, tmp_path: Path, function: Any, match: str
) -> None:
    own = replace(above_a_tenth, name="own", function=function)
    mask, out = Contrast(), tmp_path / "out"
    with pytest.raises(ConfigError, match=f"^metrics: .*{match}") as caught:
        settings = replace(FAST, metrics=(own, "iou"))
        run_comparison(classifier, Squares(), {"mask": mask}, settings, out=out)
    assert "\n" not in str(caught.value) and not mask.batch_sizes and not out.exists()


def test_what_a_method_keeps_while_it_works_loses_no_row(classifier: Classifier) -> None:
    class Growing(Contrast):
        @property
        def cache_key(self) -> str:
            return f"seen {len(self.batch_sizes)}"

    results = run_comparison(classifier, Squares(), {"mask": Growing()}, FAST)
    assert set(results.explainers) == {"mask"} and results.rows


def test_maps_of_another_shape_are_refused(classifier: Classifier) -> None:
    class Halved(Contrast):
        def __call__(self, *given: Any) -> torch.Tensor:
            return super().__call__(*given)[:, ::2]

    with pytest.raises(ConfigError, match=r"mask: expected float maps, .* \(1, 32, 32\), got"):
        run_comparison(classifier, Squares(), {"mask": Halved()}, FAST)


def test_the_row_that_others_are_compared_with(classifier: Classifier, tmp_path: Path) -> None:
    explainers = {"centre_box": CentreBox(), "gradient": Gradient(), "whole_box": WholeBox()}
    results = run_comparison(classifier, Squares(), explainers, FAST, out=tmp_path)
    first = results.table()[0].name
    assert find_reference(results) == first
    assert f"than {first}, the first one of the ranking, on the same images" in (
        results.to_markdown()
    )
    others = [row.cells["iou"].paired for row in results.table()[1:]]
    assert all(pair is not None and pair.n == COUNT // 2 for pair in others)
    named = run_comparison(
        classifier, Squares(), explainers, FAST, out=tmp_path, against="whole_box"
    )
    assert find_reference(ComparisonResults.load(tmp_path)) == find_reference(named) == "whole_box"
    assert "worse than whole_box on the same images" in named.to_markdown()
    assert find_reference(replace(results, against="gone")) is None
    assert "gone was not measured" in replace(results, against="gone").to_markdown()
    alone = run_comparison(classifier, Squares(), {"centre_box": CentreBox()}, FAST)
    assert find_reference(alone) is None and "▲" not in alone.to_markdown()
    with pytest.raises(ConfigError, match=r"against: expected one of .*; did you mean gradient"):
        run_comparison(classifier, Squares(), explainers, FAST, against="gradeint")


def test_further_maps_with_nan_are_an_error(classifier: Classifier) -> None:
    settings = replace(FAST, metrics=("randomisation",))
    both = {"mask": Contrast(), "lost": Lost()}
    results = run_comparison(classifier, Squares(), both, settings)
    assert "expected finite maps in further calls" in results.failed["lost"]
    assert set(results.explainers) == {"mask"}
