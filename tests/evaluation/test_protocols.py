"""Published protocols against literal versions of what their code does, image by image."""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, label
from torch import Tensor, nn

import apercu
from apercu.classifiers import Classifier, ClassifierCard, InputSpec, wrap_module
from apercu.cli import compare as compare_command
from apercu.errors import ConfigError, ImagesError, RunError, WorkInterrupted
from apercu.evaluation import PROTOCOLS, ComparisonResults, settings
from apercu.evaluation.report import write_report
from apercu.evaluation.report.tables import format_markdown
from apercu.evaluation.sample import EvalBatch
from apercu.evaluation.scores import MetricInputs, compute_metric
from apercu.images import open_images
from apercu.log import redirect_warnings
from apercu.maps import reduce_maps, resize_maps
from apercu.methods import Cam, Gradient, Method, WholeBox
from apercu.metrics import Metric, make_metric
from apercu.metrics.flipping import Flipping, compute_area, compute_calibration, flip_pixels
from apercu.metrics.localisation import box_iou
from apercu.metrics.max_box_acc import box_accuracy, find_part_boxes
from apercu.metrics.pointing import POINTING_GAME_15
from apercu.metrics.registry import METRICS
from apercu.metrics.rise_curves import build_rise_kernel, rise_deletion, rise_insertion
from apercu.removal import Flat
from apercu.statistics import bootstrap_interval

SIDE = 32


@pytest.fixture(scope="module")
def classifier() -> Classifier:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 5, stride=2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    module(torch.zeros(1, 3, SIDE, SIDE))
    spec = InputSpec(size=(SIDE, SIDE), mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.2))
    names = open_images("planted:classes=3").class_names
    return wrap_module(module, ClassifierCard(source="random", input=spec, classes=names))


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def run_rise(
    classifier: Classifier, image: Tensor, target: int, saliency: Tensor, mode: str
) -> float:
    """One image as RISE's evaluation.py treats it, in the normalised space of its network."""
    mean, std = (torch.tensor(each)[:, None, None] for each in ((0.4, 0.5, 0.6), (0.2, 0.3, 0.2)))
    normal = (image - mean) / std
    kernel = np.zeros((11, 11))
    kernel[5, 5] = 1
    kernel = gaussian_filter(kernel, 5)
    weights = torch.zeros(3, 3, 11, 11)
    for channel in range(3):
        weights[channel, channel] = torch.from_numpy(kernel).float()
    blurred = nn.functional.conv2d(normal[None], weights, padding=5)[0]
    start, end = (normal, torch.zeros_like(normal)) if mode == "del" else (blurred, normal)
    order = saliency.flatten().argsort(descending=True).tolist()
    current = start.clone().flatten(1)
    scores = []
    for step in range(SIDE + 1):
        shown = current.view_as(image) * std + mean
        scores.append(float(classifier(shown[None]).softmax(1)[0, target]))
        pixels = order[SIDE * step : SIDE * (step + 1)]
        current[:, pixels] = end.flatten(1)[:, pixels]
    return (sum(scores) - scores[0] / 2 - scores[-1] / 2) / (len(scores) - 1)


def test_deletion_and_insertion_are_those_of_rise(classifier: Classifier) -> None:
    images, maps = draw(3, 3, SIDE, SIDE), draw(3, SIDE, SIDE, seed=1)
    targets = torch.tensor([0, 2, 1])
    with torch.no_grad():
        for metric, mode in ((rise_deletion, "del"), (rise_insertion, "ins")):
            literal = [
                run_rise(classifier, *each, mode)
                for each in zip(images, targets.tolist(), maps, strict=True)
            ]
            assert metric(classifier, images, targets, maps).tolist() == pytest.approx(
                literal, abs=1e-5
            )


def test_the_kernel_of_rise_is_a_filtered_impulse() -> None:
    impulse = np.zeros(11)
    impulse[5] = 1
    np.testing.assert_allclose(build_rise_kernel().numpy(), gaussian_filter(impulse, 5), atol=1e-9)


def test_parts_are_those_of_a_labelling() -> None:
    """The boxes of 8-connected parts, against SciPy's labels, on noise of several densities."""
    densities = torch.tensor([0.0, 0.05, 0.2, 0.4, 0.5, 0.6, 0.9, 1.1])
    regions = draw(8, 19, 23) < densities[:, None, None]
    owner, boxes = find_part_boxes(regions)
    for index, region in enumerate(regions.numpy()):
        labels, count = label(region, structure=np.ones((3, 3)))
        expected = set()
        for part in range(1, count + 1):
            rows, columns = np.nonzero(labels == part)
            expected.add((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        found = [tuple(box) for box in boxes[owner == index].int().tolist()]
        assert len(found) == count
        assert set(found) == expected


def test_box_accuracy_takes_the_best_part_of_a_region() -> None:
    regions = draw(2, 3, 24, 24) < 0.15
    regions[0, 1] = False
    truths = torch.tensor([[[0, 0, 6, 6], [0, 0, 0, 0]], [[3, 3, 9, 9], [12, 12, 20, 20]]])
    truths = torch.cat([truths, truths[:1]]).float()
    for overlap in (0.1, 0.3, 0.5):
        scores = box_accuracy(regions, truths, overlap)
        for level in range(2):
            for image in range(3):
                _, boxes = find_part_boxes(regions[level, image : image + 1])
                best = max(
                    (float(box_iou(b, t)) for b in boxes for t in truths[image]), default=0.0
                )
                assert float(scores[level, image]) == float(best >= overlap)
    assert METRICS["max_box_acc_70"].function(regions, truths).shape == (2, 3)


def test_the_pointing_game_of_torchray_counts_a_peak_within_15_pixels() -> None:
    """TorchRay accepts what is nearer than 15 pixels of the picture, here a larger one."""
    maps, objects = draw(40, 48, 48, seed=3), torch.zeros(40, 48, 48, dtype=torch.bool)
    objects[:, 30:34, 20:28] = True
    rows, columns = np.nonzero(objects[0].numpy())
    sizes = torch.tensor([[96, 72]]).expand(40, 2)
    for map, score in zip(maps, POINTING_GAME_15.function(maps, objects, sizes), strict=True):
        row, column = divmod(int(map.argmax()), 48)
        nearest = ((2 * (rows - row)) ** 2 + (1.5 * (columns - column)) ** 2).min()
        assert float(score) == float(nearest < 15**2)


def test_the_size_of_the_stored_picture_reaches_the_pointing_game(
    classifier: Classifier, tmp_path: Path
) -> None:
    """A peak in one corner, a box in the other one: near in a small picture, far in a large one."""
    for side in (16, 160):
        Image.new("RGB", (side, side), "grey").save(tmp_path / f"{side}.png")
    (tmp_path / "boxes.csv").write_text(
        "file,xmin,ymin,xmax,ymax\n16.png,8,8,16,16\n160.png,80,80,160,160\n"
    )

    def corner(_: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        maps = torch.zeros_like(images[:, 0])
        maps[:, 0, 0] = 1
        return maps

    results = apercu.compare(
        classifier, str(tmp_path), {"corner": corner}, metrics="pointing_game_15", cost=False
    )
    assert results.scores["corner", "pointing_game_15"] == {"16.png": 1, "160.png": 0}


def make_explainers(factor: float) -> dict[str, Any]:
    """A smooth mask, and the same one at another strength."""

    @dataclass(frozen=True)
    class Mask(Method):
        map_scale: ClassVar = "mask"
        needs: ClassVar = ()
        factor: float

        def compute_maps(self, classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
            return self.factor * nn.functional.avg_pool2d(images, 9, 1, 4).mean(dim=1)

    return {"whole": Mask(1.0), "faint": Mask(factor)}


@pytest.mark.parametrize("factor", [0.4, 0.01])
def test_a_faint_mask_has_the_boxes_of_a_strong_one(classifier: Classifier, factor: float) -> None:
    source = f"planted:images=8,size={SIDE},classes=3"
    results = apercu.compare(
        classifier, source, make_explainers(factor), protocol="maxboxacc", cost=False
    )
    values = {(row.explainer, row.metric): row.value for row in results.rows}
    for metric in PROTOCOLS["maxboxacc"].metrics:
        assert values["whole", metric] == values["faint", metric]
        fixed = [f"{name}:threshold=0.5" for name in ("whole", "faint")]
        assert values[fixed[0], metric] == values[fixed[1], metric]
    assert values["whole", "max_box_acc_30"] > 0


def test_normalised_maps_are_cut_above_the_threshold_and_boxes_stay(classifier: Classifier) -> None:
    """As by OpenCV's binary threshold, whose pixels are greater than it."""
    seen = {}

    @make_metric(better="higher", meaning="what reached the metric")
    def keep(normalised_regions: Tensor, true_boxes: Tensor) -> Tensor:
        seen["regions"] = normalised_regions
        return normalised_regions.float().mean(dim=(2, 3))

    images = draw(2, 3, 4, 4)
    maps = torch.tensor([[[0.25, 0.5], [0.75, 0.75]], [[1.0, 1.0], [1.0, 1.0]]])
    batch = EvalBatch(
        *((), images, torch.tensor([0, 1]), torch.zeros(2, 1, 4)),
        *(torch.zeros(2, 4, 4, dtype=torch.bool), torch.tensor([[4, 4]] * 2)),
    )
    inputs = MetricInputs(Gradient(), classifier, batch, maps, steps=2)
    compute_metric(keep, inputs, (0.25, 0.5))
    assert seen["regions"].int().tolist() == [
        [[[0, 1], [1, 1]], [[0, 0], [0, 0]]],
        [[[0, 0], [1, 1]], [[0, 0], [0, 0]]],
    ]
    compute_metric(keep, replace(inputs, explainer=WholeBox()), (0.5,))
    assert seen["regions"][0, 1].all()  # a box is no map to be stretched


@dataclass(frozen=True)
class Colour(Method):
    """How colourful the surroundings of each pixel are, which planted objects mostly are."""

    needs: ClassVar[tuple[Any, ...]] = ()

    def compute_maps(self, classifier: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.std(1), 5, stride=1, padding=2)


def test_max_box_acc_is_that_of_choe_et_al_written_out(classifier: Classifier) -> None:
    source = open_images(f"planted:images=16,size={SIDE},classes=3")
    hits = np.zeros((3, 99, len(source)))
    for image, item in enumerate(source):
        picture = classifier.prepare(item.picture)[None]
        target = torch.tensor([classifier.index_of(item.label)])
        one = Colour()(classifier, picture, target)[0].double().numpy()
        one = (one - one.min()) / (one.max() - one.min())
        for step in range(1, 100):
            parts, count = label(one > step / 100, np.ones((3, 3)))
            overlaps = [0.0]
            for part in range(1, count + 1):
                rows, columns = np.nonzero(parts == part)
                for xmin, ymin, xmax, ymax in np.atleast_2d(item.boxes):
                    width = min(columns.max() + 1, xmax) - max(columns.min(), xmin)
                    height = min(rows.max() + 1, ymax) - max(rows.min(), ymin)
                    both = max(width, 0) * max(height, 0)
                    own = (np.ptp(columns) + 1) * (np.ptp(rows) + 1)
                    overlaps.append(both / (own + (xmax - xmin) * (ymax - ymin) - both))
            for row, percent in enumerate((30, 50, 70)):
                hits[row, step - 1, image] = max(overlaps) >= percent / 100
    explainers = {"colour": Colour()}
    results = apercu.compare(classifier, source, explainers, protocol="maxboxacc", cost=False)
    values = {row.metric: row.value for row in results.rows if row.explainer == "colour"}
    best = hits.mean(2).max(1)
    assert 0 < best[2] < best[0]
    for percent, value in zip((30, 50, 70), best, strict=True):
        assert values[f"max_box_acc_{percent}"] == pytest.approx(value)
    assert values["max_box_acc_v2"] == pytest.approx(best.mean())


@pytest.mark.parametrize("choosing", ["same", "folds", "half"])
def test_max_box_acc_v2_is_the_mean_of_three_at_their_own_thresholds(
    classifier: Classifier, choosing: str
) -> None:
    source = f"planted:images=12,size={SIDE},classes=3"
    results = apercu.compare(
        *(classifier, source, {**make_explainers(0.4), "middle": "centre_box", "true": "true_box"}),
        metrics="max_box_acc_v2",
        thresholds_from=choosing,
        cost=False,
    )
    rows = {(row.explainer, row.metric): row for row in results.rows}
    names = {name for name, _ in rows}
    assert names == {
        "whole",
        "faint",
        "middle",
        "true",
        *(f"{name}:threshold=0.5" for name in ("whole", "faint")),
    }
    for name in names:
        parts = [rows[name, f"max_box_acc_{percent}"] for percent in (30, 50, 70)]
        mean = rows[name, "max_box_acc_v2"]
        assert mean.value == pytest.approx(sum(part.value for part in parts) / 3)
        assert mean.n == parts[0].n == (6 if choosing == "half" else 12)
        scores = [results.scores[name, part.metric] for part in parts]
        expected = np.array([sum(each[image] for each in scores) / 3 for image in scores[0]])
        assert mean.ci95 == pytest.approx(bootstrap_interval(expected, 0))
        assert mean.threshold is None
    assert rows["true", "max_box_acc_v2"].value == 1


def test_a_mean_is_one_of_metrics_of_the_package() -> None:
    metric = Metric(
        name="mine",
        function=lambda maps: maps,
        takes=("maps",),
        better="lower",
        title="Mine",
        phrase="mine",
        meaning="mine",
        mean_of=("iou", "other"),
    )
    with pytest.raises(ConfigError, match="expected mean_of to name metrics of apercu, got other"):
        settings.CompareSettings(metrics=(metric,)).resolved_metrics  # noqa: B018


@pytest.mark.parametrize("cells", [4, 8])
@pytest.mark.parametrize("cumulative", [True, False])
def test_cells_are_flipped_as_gomez_et_al_flip_them(
    classifier: Classifier, cells: int, cumulative: bool
) -> None:
    """The map of few cells, the mask of its highest ones enlarged to the nearest cell."""
    images, small = draw(2, 3, SIDE, SIDE), draw(2, cells, cells, seed=5)
    targets = torch.tensor([1, 2])
    index = (torch.arange(SIDE) * cells) // SIDE
    flipping = Flipping(Flat((0.4, 0.5, 0.6)), cumulative=cumulative, cells=cells)
    maps = small[:, index][:, :, index]
    with torch.no_grad():
        curves = flip_pixels(classifier, images, targets, maps, flipping)
        for image, map, target, area, calibration in zip(
            images,
            small,
            targets.tolist(),
            compute_area(curves).tolist(),
            compute_calibration(curves).tolist(),
            strict=True,
        ):
            order = map.flatten().argsort(descending=True)
            scores = [float(classifier(image[None]).softmax(1)[0, target])]
            for step in range(cells * cells):
                mask = torch.ones(cells * cells)
                mask[order[: step + 1] if cumulative else order[step : step + 1]] = 0
                mask = mask.view(cells, cells)[index][:, index]
                grey = torch.tensor([0.4, 0.5, 0.6])[:, None, None]
                mixed = image * mask + grey * (1 - mask)
                scores.append(float(classifier(mixed[None]).softmax(1)[0, target]))
            heights = np.array(scores if cumulative else scores[1:])
            assert area == pytest.approx((heights[1:] + heights[:-1]).mean() / 2, abs=1e-5)
            effects = -np.diff(scores) if cumulative else scores[0] - np.array(scores[1:])
            saliency = map.flatten()[order].numpy()
            expected = np.corrcoef(effects, saliency)[0, 1]
            assert calibration == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("side", [64, 44])  # 8 and 6 cells per side; 6 do not divide 44
@pytest.mark.parametrize("insert", [False, True])
def test_the_cells_of_a_cam_are_flipped_in_their_own_order(side: int, insert: bool) -> None:
    torch.manual_seed(1)
    features = nn.Sequential(nn.Conv2d(3, 8, 9, stride=8, padding=4), nn.ReLU())
    module = nn.Sequential(features, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    card = ClassifierCard(
        source="random", input=InputSpec(size=(side, side)), classes=("a", "b", "c")
    )
    network = wrap_module(module, card)
    images, targets = draw(6, 3, side, side, seed=2), torch.tensor([0, 1, 2] * 2)
    with torch.no_grad():
        native = torch.einsum("bc,bchw->bhw", module[3].weight[targets], features(images))
    cells = native.shape[1]
    assert cells == -(-side // 8)
    maps = Cam()(network, images, targets)
    torch.testing.assert_close(reduce_maps(maps, cells), native, atol=1e-5, rtol=1e-4)
    index = (torch.arange(side) * cells) // side
    flipping = Flipping(Flat((0.5,) * 3), insert=insert, cells=cells)
    with torch.no_grad():
        curves = flip_pixels(network, images, targets, maps, flipping)
        start, end = images, torch.full_like(images, 0.5)
        if insert:
            start, end = end, start
        for row, map in enumerate(native):
            order = map.flatten().argsort(descending=True)
            mask = torch.zeros(cells * cells)
            literal = []
            for step in range(cells * cells + 1):
                mask[order[:step]] = 1
                large = mask.view(cells, cells)[index][:, index]
                mixed = start[row] * (1 - large) + end[row] * large
                literal.append(float(network(mixed[None]).softmax(1)[0, targets[row]]))
            assert curves.probabilities[row].tolist() == pytest.approx(literal, abs=1e-5)


@pytest.mark.parametrize(("side", "cells"), [(224, 7), (224, 14), (299, 8), (384, 12)])
def test_a_map_keeps_the_cells_that_it_was_enlarged_from(side: int, cells: int) -> None:
    grid = draw(5, cells, cells, seed=8) - 0.5
    grid[1], grid[2] = grid[1].relu() * 1e3, 0.7
    found = reduce_maps(resize_maps(grid, (side, side)), cells)
    span = grid.amax(dim=(1, 2), keepdim=True) - grid.amin(dim=(1, 2), keepdim=True)
    assert ((found - grid).abs() <= 2e-6 * span + 1e-6).all()
    empty = found[1][grid[1] == 0]
    assert len(empty) > 1 and (empty == empty[0]).all()  # what is equal flips row by row


def test_a_power_of_a_map_keeps_the_order_of_its_cells() -> None:
    grid = draw(20, 7, 7, seed=6).double()
    order = reduce_maps(resize_maps(grid**6, (224, 224)), 7).flatten(1).argsort(dim=1)
    assert torch.equal(order, grid.flatten(1).argsort(dim=1))


@pytest.mark.parametrize(("rows", "columns", "cells"), [(32, 44, 5), (9, 7, 7), (12, 12, 4)])
def test_other_maps_have_the_mean_of_the_cells_that_are_flipped(
    rows: int, columns: int, cells: int
) -> None:
    maps = draw(2, rows, columns, seed=3)
    down, across = torch.arange(rows) * cells // rows, torch.arange(columns) * cells // columns
    found = reduce_maps(maps, cells)
    for row in range(cells):
        for column in range(cells):
            inside = maps[:, down == row][:, :, across == column]
            torch.testing.assert_close(found[:, row, column], inside.mean(dim=(1, 2)))


def test_cells_that_do_not_divide_an_image_are_flipped_whole() -> None:
    images, maps = torch.ones(1, 1, SIDE, SIDE), draw(1, SIDE, SIDE)
    seen = []

    def classify(batch: Tensor) -> Tensor:
        seen.append(batch.flatten(1).sum(1).round().int())
        return torch.cat([batch.mean((2, 3)), 1 - batch.mean((2, 3))], 1)

    flip_pixels(classify, images, torch.tensor([0]), maps, Flipping(Flat((0.0,)), cells=5))
    counts = torch.cat(seen)
    sides = [6, 7]  # 32 pixels in 5 cells
    areas = {a * b for a in sides for b in sides}
    assert len(counts) == 26 and counts[-1] == 0
    assert set((-counts.diff()).tolist()) <= areas


@pytest.mark.parametrize(
    ("choosing", "words", "others"),
    [
        ("half", "come from the other half", ("all images", "hindsight")),
        ("folds", "values at a threshold come from all images", ("the other half;", "hindsight")),
        ("same", "in hindsight; so values at a threshold are too favourable", ("half",)),
    ],
)
def test_a_report_says_which_images_chose_thresholds(
    classifier: Classifier, tmp_path: Path, choosing: str, words: str, others: tuple[str, ...]
) -> None:
    source = f"planted:images=6,size={SIDE},classes=3"
    results = apercu.compare(
        *(classifier, source, ["gradient", "centre_box"], tmp_path),
        metrics="localisation_error",
        thresholds_from=choosing,
        cost=False,
    )
    page = (tmp_path / "report.html").read_text()
    specification = page[page.index("<dt>thresholds</dt>") :].partition("</dd>")[0]
    table = (tmp_path / "table.md").read_text().split("\n\n")[1]
    for text in (specification, table):
        assert words in text
        assert not any(other in text.partition("; tune half")[0] for other in others)
    row = results.rows[0]
    assert (row.other_threshold is None) == (choosing != "folds")
    with (tmp_path / "table.csv").open() as file:
        line = next(csv.DictReader(file))
    assert line["threshold"] == str(row.threshold)
    assert line["other_threshold"] == ("" if choosing != "folds" else str(row.other_threshold))


def test_both_thresholds_of_two_folds_are_shown(classifier: Classifier, tmp_path: Path) -> None:
    source = f"planted:images=6,size={SIDE},classes=3"
    results = apercu.compare(
        classifier, source, ["gradient"], metrics="localisation_error", thresholds_from="folds"
    )
    (row,) = results.rows
    differ = replace(results, rows=(replace(row, threshold=0.45, other_threshold=0.6),))
    assert "at 0.45 and 0.6 |" in format_markdown(differ)
    assert "threshold 0.45 and 0.6<" in write_report(differ, (), tmp_path / "a.html").read_text()
    equal = replace(results, rows=(replace(row, threshold=0.6, other_threshold=0.6),))
    assert "at 0.6 |" in format_markdown(equal)


def test_where_nothing_was_chosen_no_image_chose(classifier: Classifier) -> None:
    source = f"planted:images=6,size={SIDE},classes=3"
    results = apercu.compare(classifier, source, ["centre_box"], metrics="localisation_error")
    assert "hreshold" not in format_markdown(results)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_protocol_sets_metrics_thresholds_and_targets(classifier: Classifier, name: str) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    results = apercu.compare(classifier, source, ["centre_blob"], protocol=name)
    assert [row.metric for row in results.rows] == list(PROTOCOLS[name].metrics)
    key = results.key
    if name == "maxboxacc":
        assert key.settings["thresholds_from"] == "same"
        assert len(key.settings["thresholds"]) == 99
        assert {row.n for row in results.rows} == {4}
    assert key.targets == ("top" if name in ("rise", "gomez") else "labels")
    assert key.settings.get("cells") == (14 if name == "gomez" else None)


def test_a_protocol_is_refused_with_metrics_and_under_another_name(classifier: Classifier) -> None:
    for words, pattern in (
        ({"protocol": "rise", "metrics": "iou"}, "metrics: the protocol rise sets them"),
        ({"protocol": "raise"}, "did you mean rise"),
        ({"cells": 1}, "cells: expected at least 2"),
    ):
        with pytest.raises(ConfigError, match=pattern):
            apercu.compare(classifier, "planted:images=4,classes=3", ["centre_box"], **words)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ({"protocol": "rise", "steps": 20}, "steps: nothing in the protocol rise depends on it"),
        ({"protocol": "rise", "cells": 7}, "cells: nothing in the protocol rise depends on it"),
        ({"protocol": "rise", "thresholds_from": "folds"}, "thresholds_from: nothing in the"),
        ({"protocol": "torchray", "whole_maps": "half"}, "whole_maps: nothing in the protocol"),
        ({"protocol": "torchray", "steps": 20}, "steps: nothing in the protocol torchray"),
        ({"protocol": "maxboxacc", "steps": 5, "cells": 3}, "steps: 3 × 3 cells are flipped"),
        ({"protocol": "maxboxacc", "steps": 5}, "steps: nothing in the protocol maxboxacc"),
        ({"protocol": "maxboxacc", "cells": 3}, "cells: nothing in the protocol maxboxacc"),
        ({"protocol": "gomez", "steps": 20}, "steps: 14 × 14 cells are flipped, one per step"),
        ({"metrics": "dauc", "steps": 20, "cells": 4}, "steps: 4 × 4 cells are flipped"),
        ({"metrics": "iou,energy", "cells": 4}, "cells: nothing in the metrics depends on it"),
        ({"metrics": "energy", "thresholds_from": "same"}, "thresholds_from: nothing in the met"),
    ],
)
def test_an_option_without_effect_is_refused(
    classifier: Classifier, words: dict[str, Any], line: str
) -> None:
    with pytest.raises(ConfigError, match=f"{line}.*leave it out"):
        apercu.compare(classifier, "planted:images=4,classes=3", ["centre_box"], **words)


def test_options_with_an_effect_are_taken(classifier: Classifier) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    for words in (
        {"protocol": "gomez", "cells": 2},
        {"protocol": "rise", "targets": "labels", "whole_maps": "all"},
        {"protocol": "maxboxacc", "thresholds_from": "half"},
        {"metrics": "energy", "steps": 20},  # a command line of version 0.1.0
        {"metrics": "iou,dauc", "cells": 2, "thresholds_from": "folds"},
    ):
        assert apercu.compare(classifier, source, ["centre_box"], cost=False, **words).rows


@pytest.mark.parametrize("name", PROTOCOLS)
def test_reports_name_the_protocol_and_what_differs(
    classifier: Classifier, tmp_path: Path, name: str
) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    words = {"cells": 4} if name == "gomez" else {}
    apercu.compare(
        classifier, source, ["centre_blob"], tmp_path, protocol=name, cost=False, **words
    )
    results = ComparisonResults.load(tmp_path)
    assert results.key.settings["protocol"] == name
    protocol = PROTOCOLS[name]
    for text in (
        (tmp_path / "table.md").read_text(),
        unescape((tmp_path / "report.html").read_text()),
        str(results),
        unescape(results._repr_html_()),
    ):
        assert re.search(f"rotocol(: |</dt><dd>){name} .{protocol.source}", text), text
        assert protocol.differences in text
        assert ("cells 4 instead of 14" in text) == (name == "gomez")


def test_reports_name_what_is_set_otherwise_than_in_a_protocol(classifier: Classifier) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    results = apercu.compare(
        *(classifier, source, ["centre_blob"]),
        protocol="maxboxacc",
        thresholds_from="half",
        targets="predicted",
        cost=False,
    )
    words = "but with targets predicted instead of labels and thresholds_from half instead of same"
    assert f"maxboxacc (Choe et al. 2020), {words}. What differs" in format_markdown(results)


def test_a_comparison_is_continued_under_its_own_protocol(
    classifier: Classifier, tmp_path: Path
) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    words = {"targets": "predicted", "cost": False}
    first = apercu.compare(
        classifier, source, ["centre_box"], tmp_path, metrics=PROTOCOLS["rise"].metrics, **words
    )
    assert "protocol" not in first.key.settings  # as older versions wrote it
    with pytest.raises(RunError, match="had protocol nothing, now rise"):
        apercu.compare(classifier, source, ["centre_box"], tmp_path, protocol="rise", cost=False)


def test_results_of_a_protocol_that_is_not_known_here_stay_readable(classifier: Classifier) -> None:
    source = f"planted:images=4,size={SIDE},classes=3"
    results = apercu.compare(classifier, source, ["centre_blob"], protocol="torchray", cost=False)
    key = replace(results.key, settings={**results.key.settings, "protocol": "later"})
    assert "Protocol: later.\n" in format_markdown(replace(results, key=key))


@pytest.fixture
def without_truth(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (SIDE, SIDE), (40 * number, 90, 90)).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("name", ["torchray", "maxboxacc"])
def test_a_protocol_that_needs_boxes_says_in_which_form(
    classifier: Classifier, without_truth: Path, name: str
) -> None:
    for words in ({}, {"thresholds_from": "half"} if name == "maxboxacc" else {}):
        with pytest.raises(ImagesError) as error:
            apercu.compare(classifier, str(without_truth), ["centre_box"], protocol=name, **words)
        line = str(error.value)
        assert f"the protocol {name} needs true boxes" in line
        assert "add boxes.csv (file,xmin,ymin,xmax,ymax in pixels)" in line
        assert line.endswith("choose another protocol")
        assert "halves" not in line and "leave the metric out" not in line


def test_truth_in_one_half_only_is_told(classifier: Classifier, without_truth: Path) -> None:
    for number in range(4):
        (without_truth / "boxes.csv").write_text(
            f"file,xmin,ymin,xmax,ymax\n{number}.png,8,8,16,16\n"
        )
        with pytest.raises(ImagesError, match="needs true boxes in both halves of the images"):
            apercu.compare(
                classifier, str(without_truth), ["centre_box"], metrics="localisation_error"
            )
    with pytest.raises(ImagesError, match="iou needs true masks; add masks"):
        apercu.compare(classifier, str(without_truth), ["centre_box"], metrics="iou")


def test_very_many_predictions_are_told_before_they_begin(classifier: Classifier) -> None:
    metrics = [METRICS["dauc"], METRICS["energy"]]
    with redirect_warnings((lines := []).append):
        settings.CompareSettings(cells=14).check_flipping(metrics, (224, 224))
        settings.CompareSettings(cells=200).check_flipping(metrics[1:], (224, 224))
        settings.CompareSettings(steps=5000).check_flipping(metrics, (16, 16))
        assert not lines
        settings.CompareSettings(cells=200).check_flipping(metrics, (224, 224))
        settings.CompareSettings(steps=5000).check_flipping(metrics, (224, 224))
    assert [line.partition(" predictions")[0] for line in lines] == [
        "200 cells per side: each curve takes 40,001",
        "5,000 steps: each curve takes 5,001",
    ]
    with pytest.raises(ConfigError, match="cells: expected at most one per pixel of 32 × 32"):
        apercu.compare(
            classifier, "planted:images=4,classes=3", ["centre_box"], metrics="dauc", cells=33
        )


def test_an_interruption_says_what_is_kept(classifier: Classifier, tmp_path: Path) -> None:
    def stop(_: Classifier, images: Tensor, targets: Tensor) -> Tensor:
        raise KeyboardInterrupt

    source = f"planted:images=4,size={SIDE},classes=3"
    words = {"metrics": "energy", "cost": False}
    with pytest.raises(WorkInterrupted, match="nothing is kept; give a folder as `out`"):
        apercu.compare(classifier, source, {"stop": stop}, **words)
    out = tmp_path / "out"
    with pytest.raises(WorkInterrupted, match="no row was finished, so nothing is kept"):
        apercu.compare(classifier, source, {"stop": stop}, out, **words)
    apercu.compare(classifier, source, ["centre_box", "edges"], out, **words)
    with pytest.raises(
        WorkInterrupted, match=r"out keeps the finished rows \(centre_box and edges\)"
    ):
        apercu.compare(classifier, source, {"stop": stop}, out, **words)


def test_the_command_line_offers_the_same_choices() -> None:
    """It does not import the library before it must, so it names them itself."""
    for name in ("WholeMaps", "ThresholdsFrom", "TargetsFrom"):
        assert get_args(getattr(compare_command, name)) == get_args(getattr(settings, name))
