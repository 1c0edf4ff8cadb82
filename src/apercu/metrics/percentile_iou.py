"""IoU of the truth with a map's highest pixels (localisation metrics of Charachon et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Maps, Regions, Scores

PERCENTILES = 101
"""0, 1, …, 100."""


def iou_at_area(maps: Maps, truths: Regions) -> Scores:
    """IoU of the truth with as many of the map's highest pixels as it has; higher is better.

    Where equal values straddle the limit, each is taken by the share of them that fits, so that
    no place of the image is favoured and a constant map scores chance. An image without truth
    scores 0.
    """
    flat, true = maps.flatten(1), truths.flatten(1)
    wanted = true.sum(dim=1, keepdim=True)
    lowest = flat.sort(dim=1, descending=True).values.gather(1, (wanted - 1).clamp(min=0))
    above, level = flat > lowest, flat == lowest
    share = (wanted - above.sum(dim=1, keepdim=True)) / level.sum(dim=1, keepdim=True)
    shared = (above & true).sum(dim=1) + share[:, 0] * (level & true).sum(dim=1)
    union = 2 * wanted[:, 0] - shared
    return torch.where(wanted[:, 0] > 0, shared / union.where(union > 0, 1), 0)


def iou_over_percentiles(maps: Maps, truths: Regions) -> Scores:
    """Mean IoU of the truth with the map cut at each of its percentiles; higher is better.

    The cut at percentile q keeps all values of at least q (linear between values); a constant map
    is kept whole at every one and scores the object's share of the image. An image without truth
    scores 0.
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
    """All percentiles of rows in ascending order."""
    place = torch.arange(PERCENTILES, device=values.device) * (values.shape[1] - 1)
    step = PERCENTILES - 1
    low, weight = place // step, (place % step).to(values) / step
    upper = (low + 1).clamp(max=values.shape[1] - 1)
    return torch.lerp(values[:, low], values[:, upper], weight.expand(len(values), -1))
