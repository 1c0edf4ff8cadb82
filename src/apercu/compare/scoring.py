"""Scores of maps: of their regions at many thresholds at once, and of the maps as they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.compare.sample import Trial
from apercu.maps import boxes, regions
from apercu.methods import Explainer
from apercu.metrics import (
    average_drop,
    background_invariance,
    dauc,
    dc,
    energy,
    iauc,
    ic,
    increase,
    iou_at_area,
    iou_over_percentiles,
    localisation_error,
    mask_iou,
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
from apercu.metrics.flipping import DELETION, INSERTION, Curves, Flipping, flip
from apercu.types import Images, Maps, Regions, Scores, Targets

OF_TRUTH: Mapping[str, Callable[[Maps, Regions], Scores]] = {
    "iou_at_area": iou_at_area,
    "iou_over_percentiles": iou_over_percentiles,
    "pointing_game": pointing_game,
    "energy": energy,
    "ncc": ncc,
}
OF_CURVES: Mapping[str, tuple[Flipping, Callable[[Curves], Scores]]] = {
    "dauc": (DELETION, dauc),
    "iauc": (INSERTION, iauc),
    "dc": (DELETION, dc),
    "ic": (INSERTION, ic),
}
OF_ANSWERS: Mapping[str, Callable[[Classifier, Images, Targets, Maps], Scores]] = {
    "average_drop": average_drop,
    "increase": increase,
    "road": road,
}
OF_MAPS: Mapping[str, Callable[[Maps], Scores]] = {
    "sparsity": sparsity,
    "total_variation": total_variation,
}

Levels: TypeAlias = Float[Tensor, "levels batch"]
LevelBoxes: TypeAlias = Float[Tensor, "levels batch 4"]


def score(
    metric: str, classifier: Classifier, trial: Trial, maps: Maps, thresholds: Sequence[float]
) -> Levels:
    """One metric of the regions at each threshold."""
    at_levels = torch.stack([regions(maps, value) for value in thresholds])
    if metric == "iou":
        return torch.stack([mask_iou(some, trial.regions) for some in at_levels])
    places = boxes(at_levels.flatten(0, 1)).view(len(thresholds), -1, 4)
    if metric == "localisation_error":
        return torch.stack([localisation_error(some, trial.truths) for some in places])
    return saliency_of_boxes(classifier, trial, places)


def score_truth(metric: str, classifier: Classifier, trial: Trial, maps: Maps) -> Levels:
    """One metric of the true boxes; the saliency metric is the mean over an image's boxes."""
    if metric == "iou":
        return mask_iou(regions(maps, 0.5), trial.regions)[None]
    places = trial.truths.transpose(0, 1).contiguous()
    real = (places != 0).any(dim=2)
    if metric == "localisation_error":
        scores = torch.stack([localisation_error(some, trial.truths) for some in places])
    else:
        scores = saliency_of_boxes(classifier, trial, places)
    return ((scores * real).sum(dim=0) / real.sum(dim=0).clamp(min=1))[None]


def score_maps(metric: str, classifier: Classifier, trial: Trial, maps: Maps, steps: int) -> Levels:
    """One metric of the maps themselves, as a single level."""
    asked = classifier, trial.images, trial.targets, maps
    if metric in OF_TRUTH:
        return OF_TRUTH[metric](maps, trial.objects)[None]
    if metric in OF_CURVES:
        flipping, read = OF_CURVES[metric]
        return read(flip(*asked, replace(flipping, steps=steps)))[None]
    if metric in OF_ANSWERS:
        return OF_ANSWERS[metric](*asked)[None]
    return OF_MAPS[metric](maps)[None]


def score_explainer(
    metric: str, explainer: Explainer, classifier: Classifier, trial: Trial
) -> Levels:
    """One metric that asks the explainer for further maps, as a single level."""
    asked = explainer, classifier, trial.images, trial.targets
    if metric == "background_invariance":
        empty = vacated(trial.images, trial.regions)
        other = exchange(trial.images, trial.regions, empty.roll(1, dims=0).flip(3))
        before, after = (
            explainer(classifier, some, trial.targets) for some in (trial.images, other)
        )
        return background_invariance(before, after, trial.regions)[None]
    measure = randomisation if metric == "randomisation" else max_sensitivity
    return measure(*asked)[None]


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
