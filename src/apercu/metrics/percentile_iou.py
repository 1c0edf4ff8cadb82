"""IoU of the object with a map's highest pixels (Charachon et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.metrics.record import Metric
from apercu.statistics import divide_or
from apercu.types import Maps, Regions, Scores

PERCENTILES = 101
"""The number of thresholds: percentiles 0, 1, …, 100."""


def iou_at_area(maps: Maps, truths: Regions) -> Scores:
    """Return the IoU of the object with as many of the map's highest pixels; higher is better.

    Where several pixels are equal at the limit, each counts by the fraction of them that fits, so
    that no part of the image is favoured and a constant map scores chance. An image without truth
    scores 0.
    """
    flat, true = maps.flatten(1), truths.flatten(1)
    count = true.sum(dim=1, keepdim=True)
    lowest = flat.sort(dim=1, descending=True).values.gather(1, (count - 1).clamp(min=0))
    above, level = flat > lowest, flat == lowest
    fraction = (count - above.sum(dim=1, keepdim=True)) / level.sum(dim=1, keepdim=True)
    shared = (above & true).sum(dim=1) + fraction[:, 0] * (level & true).sum(dim=1)
    union = 2 * count[:, 0] - shared
    return divide_or(shared, union)


def iou_over_percentiles(maps: Maps, truths: Regions) -> Scores:
    """Return the mean IoU of the object with the map above each of its percentiles.

    Higher is better. The region at percentile q holds all values of at least q (linear between
    values). A constant map is kept whole at every percentile and scores the object's fraction of
    the image. An image without truth scores 0.
    """
    flat, true = maps.flatten(1), truths.flatten(1)
    values, order = flat.sort(dim=1)
    below = torch.searchsorted(values, _compute_percentiles(values))
    outside = F.pad(true.gather(1, order).cumsum(dim=1), (1, 0))
    total = outside[:, -1:]
    shared = total - outside.gather(1, below)
    union = flat.shape[1] - below + total - shared
    return (shared / union).mean(dim=1)


def _compute_percentiles(values: Float[Tensor, "batch n"]) -> Float[Tensor, "batch percentiles"]:
    """Return all percentiles of rows whose values ascend."""
    position = torch.arange(PERCENTILES, device=values.device) * (values.shape[1] - 1)
    step = PERCENTILES - 1
    low, weight = position // step, (position % step).to(values) / step
    upper = (low + 1).clamp(max=values.shape[1] - 1)
    return torch.lerp(values[:, low], values[:, upper], weight.expand(len(values), -1))


IOU_AT_AREA = Metric(
    name="iou_at_area",
    function=iou_at_area,
    takes=("maps", "objects"),
    better="higher",
    title="IoU at the true area",
    phrase="IoU at the true area",
    meaning="overlap of the object with as many of the strongest pixels, 0 to 1",
)
IOU_OVER_PERCENTILES = Metric(
    name="iou_over_percentiles",
    function=iou_over_percentiles,
    takes=("maps", "objects"),
    better="higher",
    title="Mean IoU",
    phrase="mean IoU",
    meaning="overlap with the object, averaged over 101 thresholds, 0 to 1",
)
