"""Scores of maps at many thresholds at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.compare.sample import Trial
from apercu.maps import boxes, regions
from apercu.metrics import localisation_error, mask_iou, saliency_metric
from apercu.types import Maps

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
