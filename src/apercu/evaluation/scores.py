"""Scores of one explainer's maps: of their regions at many thresholds, and of the maps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ApercuError
from apercu.evaluation.sample import EvalBatch
from apercu.maps import find_regions, min_max_scale, tight_boxes
from apercu.methods import Explainer, TrueBox
from apercu.metrics import (
    RoadSettings,
    average_drop,
    background_invariance,
    dauc,
    dc,
    energy,
    iauc,
    ic,
    increase,
    iou,
    iou_at_area,
    iou_over_percentiles,
    localisation_error,
    max_sensitivity,
    ncc,
    pointing_game,
    randomisation,
    road,
    saliency_metric,
    sparsity,
    total_variation,
)
from apercu.metrics.background_invariance import remove_objects, replace_background
from apercu.metrics.flipping import (
    Flipping,
    FlippingCurves,
    flip_pixels,
    make_deletion_and_insertion,
)
from apercu.metrics.max_sensitivity import SensitivityNoise
from apercu.types import Images, Maps, Scores, Targets

CURVES = ("deletion", "insertion")

LevelScores: TypeAlias = Float[Tensor, "levels batch"]
LevelRegions: TypeAlias = Bool[Tensor, "levels batch height width"]
LevelBoxes: TypeAlias = Float[Tensor, "levels batch 4"]


@dataclass(frozen=True, eq=False)
class MetricInputs:
    """An explainer's maps of some images, and what several metrics read off them, made once.

    Attributes:
        maps: as the explainer gives them; a scale of their own where its kind is `map`.
        steps: of deletion and insertion.
        seed: of the draws that a metric makes.
        backdrops: two images with masks, on whose background others are shown.
    """

    explainer: Explainer | TrueBox
    classifier: Classifier
    batch: EvalBatch
    maps: Maps
    steps: int
    seed: int = 0
    backgrounds: EvalBatch | None = None

    @cached_property
    def unit_maps(self) -> Maps:
        """Maps that thresholds in (0, 1) can cut."""
        return min_max_scale(self.maps) if self.explainer.map_scale == "map" else self.maps

    @cached_property
    def deletion(self) -> FlippingCurves:
        return self._flip_pixels(self._published_flippings[0])

    @cached_property
    def insertion(self) -> FlippingCurves:
        return self._flip_pixels(self._published_flippings[1])

    @cached_property
    def single_step_deletion(self) -> FlippingCurves:
        """Each step on its own, not added to those before."""
        return self._flip_pixels(replace(self._published_flippings[0], cumulative=False))

    @cached_property
    def single_step_insertion(self) -> FlippingCurves:
        return self._flip_pixels(replace(self._published_flippings[1], cumulative=False))

    @property
    def curves(self) -> dict[str, FlippingCurves]:
        """Deletion and insertion, where a metric has read them."""
        return {kind: made for kind, made in vars(self).items() if kind in CURVES}

    def score_maps(self, metric: Callable[..., Scores], **settings: object) -> Scores:
        """A metric of classifier, images, targets and maps."""
        return metric(self.classifier, self.batch.images, self.batch.targets, self.maps, **settings)

    def compare_new_maps(self, metric: Callable[..., Scores], **settings: object) -> Scores:
        """A metric that asks the explainer for more maps and compares them with these."""
        asked = self.batch.images, self.batch.targets
        return metric(self._explain_again, self.classifier, *asked, before=self.maps, **settings)

    def score_background_invariance(self) -> Scores:
        """Background invariance: every object on the mirrored background of another image.

        That is the first one with a mask, or for that one itself the second.
        """
        trial, others = self.batch, self.backgrounds or self.batch
        empty = remove_objects(others.images, others.regions).flip(3)
        first = others.records[0].index
        places = [min(int(entry.index == first), len(empty) - 1) for entry in trial.records]
        other = replace_background(trial.images, trial.regions, empty[places])
        after = self._explain_again(self.classifier, other, trial.targets)
        return background_invariance(self.maps, after, trial.regions)

    def _explain_again(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Further maps; a true box is never asked for them. Maps of no numbers would score well."""
        found = cast(Explainer, self.explainer)(classifier, images, targets).detach()
        if not found.isfinite().all():
            raise ApercuError(
                f"{self.explainer}: expected finite maps when asked again, got NaN or infinity"
            )
        return found

    @property
    def _published_flippings(self) -> tuple[Flipping, Flipping]:
        return make_deletion_and_insertion(self.classifier.zero_colour)

    def _flip_pixels(self, flipping: Flipping) -> FlippingCurves:
        trial, flipping = self.batch, replace(flipping, steps=self.steps)
        return flip_pixels(self.classifier, trial.images, trial.targets, self.maps, flipping)


MAP_METRICS: Mapping[str, Callable[[MetricInputs], Scores]] = {
    "iou_at_area": lambda shown: iou_at_area(shown.maps, shown.batch.objects),
    "iou_over_percentiles": lambda shown: iou_over_percentiles(shown.maps, shown.batch.objects),
    "pointing_game": lambda shown: pointing_game(shown.maps, shown.batch.objects),
    "energy": lambda shown: energy(shown.maps, shown.batch.objects),
    "ncc": lambda shown: ncc(shown.maps, shown.batch.objects),
    "dauc": lambda shown: dauc(shown.deletion),
    "iauc": lambda shown: iauc(shown.insertion),
    "dc": lambda shown: dc(shown.deletion),
    "ic": lambda shown: ic(shown.insertion),
    "dauc_nc": lambda shown: dauc(shown.single_step_deletion),
    "iauc_nc": lambda shown: iauc(shown.single_step_insertion),
    "dc_nc": lambda shown: dc(shown.single_step_deletion),
    "ic_nc": lambda shown: ic(shown.single_step_insertion),
    "average_drop": lambda shown: shown.score_maps(average_drop),
    "increase": lambda shown: shown.score_maps(increase),
    "road": lambda shown: shown.score_maps(road, settings=RoadSettings(seed=shown.seed)),
    "sparsity": lambda shown: sparsity(shown.maps),
    "total_variation": lambda shown: total_variation(shown.maps),
    "randomisation": lambda shown: shown.compare_new_maps(randomisation, seed=shown.seed),
    "max_sensitivity": lambda shown: shown.compare_new_maps(
        max_sensitivity, noise=SensitivityNoise(seed=shown.seed)
    ),
    "background_invariance": MetricInputs.score_background_invariance,
}
"""Metrics of whole maps."""


def compute_metric(metric: str, inputs: MetricInputs, thresholds: Sequence[float]) -> LevelScores:
    """One metric: of the regions at each threshold, or as a single level of the maps as they are.

    A true box has no thresholds either; it is scored box by box.
    """
    if metric in MAP_METRICS:
        return MAP_METRICS[metric](inputs)[None]
    if isinstance(inputs.explainer, TrueBox):
        return score_true_boxes(metric, inputs)
    at_levels = torch.stack([find_regions(inputs.unit_maps, value) for value in thresholds])
    return REGION_METRICS[metric](inputs, at_levels)


def score_true_boxes(metric: str, inputs: MetricInputs) -> LevelScores:
    """One metric of the true boxes: those of boxes are the mean over an image's boxes."""
    trial = inputs.batch
    places = trial.true_boxes.transpose(0, 1).contiguous()
    real = (places != 0).any(dim=2)
    if metric == "localisation_error":
        scores = torch.stack([localisation_error(some, trial.true_boxes) for some in places])
    elif metric == "saliency_metric":
        scores = compute_box_saliency(inputs.classifier, trial, places)
    else:
        return REGION_METRICS[metric](inputs, find_regions(inputs.maps, 0.5)[None])
    return ((scores * real).sum(dim=0) / real.sum(dim=0).clamp(min=1))[None]


def compute_box_saliency(
    classifier: Classifier, batch: EvalBatch, level_boxes: LevelBoxes
) -> LevelScores:
    """The saliency metric of several boxes per image, asking once for boxes that are equal."""
    levels, count = level_boxes.shape[:2]
    image = torch.arange(count, device=level_boxes.device).expand(levels, count)
    keys = torch.cat((image[..., None].to(level_boxes), level_boxes), dim=2).flatten(0, 1)
    unique, where = torch.unique(keys, dim=0, return_inverse=True)
    scores = []
    for some in torch.split(unique, count):
        index = some[:, 0].long()
        scores.append(
            saliency_metric(classifier, batch.images[index], batch.targets[index], some[:, 1:])
        )
    return torch.cat(scores)[where].view(levels, count)


def _score_iou(inputs: MetricInputs, at_levels: LevelRegions) -> LevelScores:
    return torch.stack([iou(some, inputs.batch.regions) for some in at_levels])


def _score_localisation(inputs: MetricInputs, at_levels: LevelRegions) -> LevelScores:
    places = _find_boxes(at_levels)
    return torch.stack([localisation_error(some, inputs.batch.true_boxes) for some in places])


def _score_saliency(inputs: MetricInputs, at_levels: LevelRegions) -> LevelScores:
    return compute_box_saliency(inputs.classifier, inputs.batch, _find_boxes(at_levels))


def _find_boxes(at_levels: LevelRegions) -> LevelBoxes:
    return tight_boxes(at_levels.flatten(0, 1)).view(*at_levels.shape[:2], 4)


REGION_METRICS: Mapping[str, Callable[[MetricInputs, LevelRegions], LevelScores]] = {
    "iou": _score_iou,
    "localisation_error": _score_localisation,
    "saliency_metric": _score_saliency,
}
"""Metrics of the regions above thresholds."""
