"""Intersection over union: how well a region covers the true evidence, pixel by pixel."""

from __future__ import annotations

from apercu.metrics.record import Metric, make_levelwise
from apercu.types import Regions, Scores


def iou(regions: Regions, truths: Regions) -> Scores:
    """Return the intersection over union of pixels; 0 where both are empty; higher is better."""
    shared = (regions & truths).sum(dim=(1, 2)).float()
    union = (regions | truths).sum(dim=(1, 2)).float()
    return shared / union.clamp(min=1)


IOU = Metric(
    name="iou",
    function=make_levelwise(iou),
    takes=("regions", "true_regions"),
    better="higher",
    title="IoU",
    phrase="IoU",
    meaning="overlap of the evidence with the object, 0 to 1",
)
