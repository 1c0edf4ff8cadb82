"""How well maps and regions cover the true evidence, pixel by pixel."""

from __future__ import annotations

import torch

from apercu.types import Maps, Regions, Scores


def iou(maps: Maps, truths: Regions) -> Scores:
    """IoU of the truth with as many of the map's highest pixels as it has; higher is better.

    Needs no threshold. Among equal values the earlier pixels (row by row) are taken; an image
    without true pixels scores 0.
    """
    flat, true = maps.flatten(1), truths.flatten(1)
    order = flat.argsort(dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(
        1, order, torch.arange(flat.shape[1], device=flat.device).expand_as(order)
    )
    chosen = rank < true.sum(dim=1, keepdim=True)
    return mask_iou(chosen.view_as(truths), truths)


def mask_iou(regions: Regions, truths: Regions) -> Scores:
    """Intersection over union of pixels; 0 where both are empty; higher is better."""
    shared = (regions & truths).sum(dim=(1, 2)).float()
    union = (regions | truths).sum(dim=(1, 2)).float()
    return shared / union.clamp(min=1)
