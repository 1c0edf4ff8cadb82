"""How well a region covers the true evidence, pixel by pixel."""

from __future__ import annotations

from apercu.types import Regions, Scores


def iou(regions: Regions, truths: Regions) -> Scores:
    """Intersection over union of pixels; 0 where both are empty; higher is better."""
    shared = (regions & truths).sum(dim=(1, 2)).float()
    union = (regions | truths).sum(dim=(1, 2)).float()
    return shared / union.clamp(min=1)
