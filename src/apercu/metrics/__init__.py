"""Metrics: pure functions to one score per image; means are taken once, by `apercu.compare`."""

from __future__ import annotations

from apercu.metrics.area import mean_area
from apercu.metrics.localisation import box_iou, localisation_error
from apercu.metrics.overlap import iou, mask_iou
from apercu.metrics.saliency import saliency_metric

__all__ = ["box_iou", "iou", "localisation_error", "mask_iou", "mean_area", "saliency_metric"]
