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
from apercu.evaluation.sample import Trial
from apercu.maps import boxes, min_max, regions
from apercu.methods import Explainer, TrueBox
from apercu.metrics import (
    Road,
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
from apercu.metrics.background_invariance import exchange, vacated
from apercu.metrics.flipping import Curves, Flipping, flip, published
from apercu.metrics.max_sensitivity import Noise
from apercu.types import Images, Maps, Scores, Targets

CURVES = ("deletion", "insertion")

Levels: TypeAlias = Float[Tensor, "levels batch"]
LevelRegions: TypeAlias = Bool[Tensor, "levels batch height width"]
LevelBoxes: TypeAlias = Float[Tensor, "levels batch 4"]


@dataclass(frozen=True, eq=False)
class Shown:
    """An explainer's maps of some images, and what several metrics read off them, made once.

    Attributes:
        maps: as the explainer gives them; a scale of their own where its kind is `map`.
        steps: of deletion and insertion.
        seed: of the draws that a metric makes.
        backdrops: two images with masks, on whose background others are shown.
    """

    explainer: Explainer | TrueBox
    classifier: Classifier
    trial: Trial
    maps: Maps
    steps: int
    seed: int = 0
    backdrops: Trial | None = None

    @cached_property
    def cuttable(self) -> Maps:
        """Maps that thresholds in (0, 1) can cut."""
        return min_max(self.maps) if self.explainer.kind == "map" else self.maps

    @cached_property
    def deletion(self) -> Curves:
        return self._flipped(self._published[0])

    @cached_property
    def insertion(self) -> Curves:
        return self._flipped(self._published[1])

    @cached_property
    def lone_deletion(self) -> Curves:
        """Each step on its own, not added to those before."""
        return self._flipped(replace(self._published[0], cumulative=False))

    @cached_property
    def lone_insertion(self) -> Curves:
        return self._flipped(replace(self._published[1], cumulative=False))

    @property
    def curves(self) -> dict[str, Curves]:
        """Deletion and insertion, where a metric has read them."""
        return {kind: made for kind, made in vars(self).items() if kind in CURVES}

    def against(self, metric: Callable[..., Scores], **settings: object) -> Scores:
        """A metric of classifier, images, targets and maps."""
        return metric(self.classifier, self.trial.images, self.trial.targets, self.maps, **settings)

    def again(self, metric: Callable[..., Scores], **settings: object) -> Scores:
        """A metric that asks the explainer for more maps and compares them with these."""
        asked = self.trial.images, self.trial.targets
        return metric(self._asked, self.classifier, *asked, before=self.maps, **settings)

    def elsewhere(self) -> Scores:
        """Background invariance: every object on the mirrored background of another image.

        That is the first one with a mask, or for that one itself the second.
        """
        trial, others = self.trial, self.backdrops or self.trial
        empty = vacated(others.images, others.regions).flip(3)
        first = others.entries[0].index
        places = [min(int(entry.index == first), len(empty) - 1) for entry in trial.entries]
        other = exchange(trial.images, trial.regions, empty[places])
        after = self._asked(self.classifier, other, trial.targets)
        return background_invariance(self.maps, after, trial.regions)

    def _asked(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Further maps; a true box is never asked for them. Maps of no numbers would score well."""
        found = cast(Explainer, self.explainer)(classifier, images, targets).detach()
        if not found.isfinite().all():
            raise ApercuError(
                f"{self.explainer}: expected finite maps when asked again, got NaN or infinity"
            )
        return found

    @property
    def _published(self) -> tuple[Flipping, Flipping]:
        return published(self.classifier.zero)

    def _flipped(self, flipping: Flipping) -> Curves:
        trial, flipping = self.trial, replace(flipping, steps=self.steps)
        return flip(self.classifier, trial.images, trial.targets, self.maps, flipping)


OF_MAPS: Mapping[str, Callable[[Shown], Scores]] = {
    "iou_at_area": lambda shown: iou_at_area(shown.maps, shown.trial.objects),
    "iou_over_percentiles": lambda shown: iou_over_percentiles(shown.maps, shown.trial.objects),
    "pointing_game": lambda shown: pointing_game(shown.maps, shown.trial.objects),
    "energy": lambda shown: energy(shown.maps, shown.trial.objects),
    "ncc": lambda shown: ncc(shown.maps, shown.trial.objects),
    "dauc": lambda shown: dauc(shown.deletion),
    "iauc": lambda shown: iauc(shown.insertion),
    "dc": lambda shown: dc(shown.deletion),
    "ic": lambda shown: ic(shown.insertion),
    "dauc_nc": lambda shown: dauc(shown.lone_deletion),
    "iauc_nc": lambda shown: iauc(shown.lone_insertion),
    "dc_nc": lambda shown: dc(shown.lone_deletion),
    "ic_nc": lambda shown: ic(shown.lone_insertion),
    "average_drop": lambda shown: shown.against(average_drop),
    "increase": lambda shown: shown.against(increase),
    "road": lambda shown: shown.against(road, settings=Road(seed=shown.seed)),
    "sparsity": lambda shown: sparsity(shown.maps),
    "total_variation": lambda shown: total_variation(shown.maps),
    "randomisation": lambda shown: shown.again(randomisation, seed=shown.seed),
    "max_sensitivity": lambda shown: shown.again(max_sensitivity, noise=Noise(seed=shown.seed)),
    "background_invariance": Shown.elsewhere,
}
"""Metrics of whole maps."""


def score(metric: str, shown: Shown, thresholds: Sequence[float]) -> Levels:
    """One metric: of the regions at each threshold, or as a single level of the maps as they are.

    A true box has no thresholds either; it is scored box by box.
    """
    if metric in OF_MAPS:
        return OF_MAPS[metric](shown)[None]
    if isinstance(shown.explainer, TrueBox):
        return score_truth(metric, shown)
    at_levels = torch.stack([regions(shown.cuttable, value) for value in thresholds])
    return OF_REGIONS[metric](shown, at_levels)


def score_truth(metric: str, shown: Shown) -> Levels:
    """One metric of the true boxes: those of boxes are the mean over an image's boxes."""
    trial = shown.trial
    places = trial.truths.transpose(0, 1).contiguous()
    real = (places != 0).any(dim=2)
    if metric == "localisation_error":
        scores = torch.stack([localisation_error(some, trial.truths) for some in places])
    elif metric == "saliency_metric":
        scores = saliency_of_boxes(shown.classifier, trial, places)
    else:
        return OF_REGIONS[metric](shown, regions(shown.maps, 0.5)[None])
    return ((scores * real).sum(dim=0) / real.sum(dim=0).clamp(min=1))[None]


def saliency_of_boxes(classifier: Classifier, trial: Trial, places: LevelBoxes) -> Levels:
    """The saliency metric of several boxes per image, asking once for boxes that are equal."""
    levels, count = places.shape[:2]
    image = torch.arange(count, device=places.device).expand(levels, count)
    keys = torch.cat((image[..., None].to(places), places), dim=2).flatten(0, 1)
    unique, where = torch.unique(keys, dim=0, return_inverse=True)
    scores = []
    for some in torch.split(unique, count):
        index = some[:, 0].long()
        scores.append(
            saliency_metric(classifier, trial.images[index], trial.targets[index], some[:, 1:])
        )
    return torch.cat(scores)[where].view(levels, count)


def _iou(shown: Shown, at_levels: LevelRegions) -> Levels:
    return torch.stack([iou(some, shown.trial.regions) for some in at_levels])


def _localisation_error(shown: Shown, at_levels: LevelRegions) -> Levels:
    places = _places(at_levels)
    return torch.stack([localisation_error(some, shown.trial.truths) for some in places])


def _saliency_metric(shown: Shown, at_levels: LevelRegions) -> Levels:
    return saliency_of_boxes(shown.classifier, shown.trial, _places(at_levels))


def _places(at_levels: LevelRegions) -> LevelBoxes:
    return boxes(at_levels.flatten(0, 1)).view(*at_levels.shape[:2], 4)


OF_REGIONS: Mapping[str, Callable[[Shown, LevelRegions], Levels]] = {
    "iou": _iou,
    "localisation_error": _localisation_error,
    "saliency_metric": _saliency_metric,
}
"""Metrics of the regions above thresholds."""
