"""Scores of one explainer's maps: what a metric can be given, computed once and shared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ApercuError
from apercu.evaluation.sample import EvalBatch
from apercu.maps import find_regions, min_max_scale, tight_boxes
from apercu.methods import MapExplainer, TrueBox
from apercu.metrics.background_invariance import remove_objects, replace_background
from apercu.metrics.flipping import (
    Flipping,
    FlippingCurves,
    flip_pixels,
    make_deletion_and_insertion,
)
from apercu.metrics.record import LevelBoxes, LevelScores, Metric
from apercu.types import Images, Maps, Regions, Targets

CURVES = ("deletion", "insertion")
REGIONS = ("regions", "normalised_regions")

LevelRegions: TypeAlias = Bool[Tensor, "levels batch height width"]


@dataclass(frozen=True)
class LevelledScores:
    """Scores of some images before any mean.

    Attributes:
        by_metric: `levels × images` by metric, of the images whose truth is known.
        curves: the probabilities of deletion and insertion, `images × steps`.
        constant: how many maps are constant.
        levels: the thresholds by metric, in the order of the scores.
    """

    by_metric: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    constant: int = 0
    levels: Mapping[str, Sequence[float]] = field(default_factory=dict)

    def at(self, metric: str, threshold: float) -> Tensor:
        """Return the scores of a metric at one of its thresholds, one per image."""
        return self.by_metric[metric][list(self.levels[metric]).index(threshold)]


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold and where it comes from.

    Attributes:
        value: the threshold.
        origin: where it comes from; None where nothing was chosen.
        other: threshold of the half that chose this one, with two folds.
    """

    value: float
    origin: str | None = None
    other: float | None = None


@dataclass(frozen=True)
class HalfScores:
    """Scores of both halves of the images, and the thresholds that these choose.

    Attributes:
        tune: the scores of the half that chooses thresholds.
        test: the scores of the half that is always reported.
        in_both: the metrics that are reported on both halves.
        best: the threshold of each metric of regions on the test half.
        opposite: the same on the tune half, with two folds; else empty.
    """

    tune: LevelledScores
    test: LevelledScores
    in_both: frozenset[str]
    best: Mapping[str, ChosenThreshold]
    opposite: Mapping[str, ChosenThreshold]

    def describe_threshold(self, metric: str) -> ChosenThreshold:
        """Return the threshold of a metric of regions; with two folds, those of both halves."""
        chosen = self.best[metric]
        if metric not in self.opposite:
            return chosen
        other = self.opposite[metric]
        origin = f"{chosen.origin}; on that half {other.value:g}, from the {other.origin}"
        return ChosenThreshold(chosen.value, origin, other.value)


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """One explainer's maps of some images, and all else that a metric takes, see `MetricInput`.

    What several metrics need is computed once.

    Attributes:
        explainer: the explainer that gave the maps.
        classifier: the classifier that is explained.
        batch: the images and what is known of them.
        maps: maps as the explainer gives them, `batch × height × width`.
        steps: the number of steps of deletion and insertion.
        cells: the cells per side that they flip one by one; None for pixels.
        seed: the seed of the metrics that draw at random.
        backgrounds: two images with masks, on whose background others are shown.
    """

    explainer: MapExplainer | TrueBox
    classifier: Classifier
    batch: EvalBatch
    maps: Maps
    steps: int
    seed: int = 0
    backgrounds: EvalBatch | None = None
    cells: int | None = None

    @property
    def images(self) -> Images:
        """The images, `batch × channels × height × width`."""
        return self.batch.images

    @property
    def targets(self) -> Targets:
        """The class that each image is explained for."""
        return self.batch.targets

    @property
    def true_boxes(self) -> Float[Tensor, "batch truths 4"]:
        """The true boxes; images with fewer of them are padded with empty ones."""
        return self.batch.true_boxes

    @property
    def true_regions(self) -> Regions:
        """The true masks of the images, `batch × height × width`."""
        return self.batch.regions

    @property
    def sizes(self) -> Int[Tensor, "batch 2"]:
        """Height and width of the stored pictures."""
        return self.batch.sizes

    @property
    def objects(self) -> Regions:
        """The pixels of the true mask, or of the true boxes where there is no mask."""
        return self.batch.objects

    @cached_property
    def unit_maps(self) -> Maps:
        """Maps in [0, 1], which thresholds can cut."""
        return min_max_scale(self.maps) if self.explainer.map_scale == "map" else self.maps

    @cached_property
    def normalised_maps(self) -> Maps:
        """Maps that attain 0 and 1, masks included; a constant one is 0, and boxes stay."""
        return self.maps if self.explainer.map_scale == "box" else min_max_scale(self.maps)

    @cached_property
    def deletion(self) -> FlippingCurves:
        """Probabilities while the highest pixels are deleted."""
        return self._flip_pixels(self._flippings[0])

    @cached_property
    def insertion(self) -> FlippingCurves:
        """Probabilities while the highest pixels are inserted."""
        return self._flip_pixels(self._flippings[1])

    @cached_property
    def single_step_deletion(self) -> FlippingCurves:
        """Probabilities where each step deletes its own pixels only."""
        return self._flip_pixels(replace(self._flippings[0], cumulative=False))

    @cached_property
    def single_step_insertion(self) -> FlippingCurves:
        """Probabilities where each step inserts its own pixels only."""
        return self._flip_pixels(replace(self._flippings[1], cumulative=False))

    @property
    def curves(self) -> dict[str, FlippingCurves]:
        """Deletion and insertion, where a metric has needed them."""
        return {name: value for name, value in vars(self).items() if name in CURVES}

    @property
    def maps_elsewhere(self) -> Maps:
        """Maps of every object on the mirrored background of another image.

        That is the first image with a mask, or for that image itself the second one.
        """
        batch, others = self.batch, self.backgrounds or self.batch
        empty = remove_objects(others.images, others.regions).flip(3)
        first = others.records[0].index
        rows = [min(int(record.index == first), len(empty) - 1) for record in batch.records]
        moved = replace_background(batch.images, batch.regions, empty[rows])
        return self.explain_again(self.classifier, moved, batch.targets)

    def explain_again(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Compute further maps, never of the true boxes.

        Raises:
            ApercuError: a map holds NaN or infinity, which would score well by chance.
        """
        maps = cast(MapExplainer, self.explainer)(classifier, images, targets).detach()
        if not maps.isfinite().all():
            raise ApercuError(
                f"{self.explainer}: expected finite maps in further calls, got NaN or infinity"
            )
        return maps

    @property
    def _flippings(self) -> tuple[Flipping, Flipping]:
        return make_deletion_and_insertion(self.classifier.zero_colour)

    def _flip_pixels(self, flipping: Flipping) -> FlippingCurves:
        flipping = replace(flipping, steps=self.steps, cells=self.cells)
        return flip_pixels(self.classifier, self.images, self.targets, self.maps, flipping)


def compute_metric(
    metric: Metric, inputs: MetricInputs, thresholds: Sequence[float]
) -> LevelScores:
    """Compute one metric for a batch.

    Args:
        metric: the metric in question.
        inputs: the maps, and what is known of their images.
        thresholds: where maps are cut. A metric of whole maps has a single level, and so have the
            true boxes, which are scored box by box.

    Returns:
        One score per threshold and image, `levels × batch`.
    """
    if not metric.thresholded:
        scores: Tensor = metric.function(*(getattr(inputs, name) for name in metric.takes))
        return scores[None]
    if isinstance(inputs.explainer, TrueBox):
        return score_true_boxes(metric, inputs)
    if "boxes" in metric.takes:
        regions = _cut_maps(inputs, "regions", thresholds)
        boxes = tight_boxes(regions.flatten(0, 1)).view(*regions.shape[:2], 4)
        return _score_boxes(metric, inputs, boxes)
    needed: list[str] = [name for name in metric.takes if name in REGIONS]
    cut = {name: _cut_maps(inputs, name, thresholds) for name in needed}
    return _score_regions(metric, inputs, cut)


def score_true_boxes(metric: Metric, inputs: MetricInputs) -> LevelScores:
    """Compute one metric of the true boxes; a metric of boxes is the mean over an image's boxes."""
    if "boxes" not in metric.takes:
        regions = find_regions(inputs.maps, 0.5)[None]
        return _score_regions(metric, inputs, dict.fromkeys(REGIONS, regions))
    boxes = inputs.true_boxes.transpose(0, 1).contiguous()
    is_real = (boxes != 0).any(dim=2)
    scores = _score_boxes(metric, inputs, boxes)
    return ((scores * is_real).sum(dim=0) / is_real.sum(dim=0).clamp(min=1))[None]


def _cut_maps(inputs: MetricInputs, name: str, thresholds: Sequence[float]) -> LevelRegions:
    """Return the pixels from each threshold on; of normalised maps those above it, as published."""
    if name == "normalised_regions":
        return torch.stack([inputs.normalised_maps > value for value in thresholds])
    return torch.stack([find_regions(inputs.unit_maps, value) for value in thresholds])


def _score_regions(
    metric: Metric, inputs: MetricInputs, cut: Mapping[str, LevelRegions]
) -> LevelScores:
    values = (cut[name] if name in cut else getattr(inputs, name) for name in metric.takes)
    scores: LevelScores = metric.function(*values)
    return scores


def _score_boxes(metric: Metric, inputs: MetricInputs, boxes: LevelBoxes) -> LevelScores:
    values = (boxes if name == "boxes" else getattr(inputs, name) for name in metric.takes)
    scores: LevelScores = metric.function(*values)
    return scores
