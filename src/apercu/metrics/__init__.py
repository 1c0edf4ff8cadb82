"""Metrics: pure functions to one score per image, one file each.

`apercu.metrics.get(name)` returns what is known of a metric. Means over images are computed once,
by `apercu.evaluation`.
"""

from __future__ import annotations

from apercu.metrics.average_drop import average_drop, drop_in_deletion, increase
from apercu.metrics.background_invariance import background_invariance
from apercu.metrics.energy import energy
from apercu.metrics.evidence_exchange import (
    ExchangeScores,
    measure_exchange,
    move_regions,
    replace_parts,
)
from apercu.metrics.flipping import Flipping, FlippingCurves, dauc, dc, flip_pixels, iauc, ic
from apercu.metrics.iou import iou
from apercu.metrics.localisation import box_iou, localisation_error
from apercu.metrics.max_box_acc import (
    max_box_acc_30,
    max_box_acc_50,
    max_box_acc_70,
    max_box_acc_v2,
)
from apercu.metrics.max_sensitivity import max_sensitivity
from apercu.metrics.ncc import ncc
from apercu.metrics.percentile_iou import iou_at_area, iou_over_percentiles
from apercu.metrics.pointing import pointing_game, pointing_game_15
from apercu.metrics.randomisation import randomisation
from apercu.metrics.record import Metric, MetricRecord, make_metric
from apercu.metrics.registry import get, names
from apercu.metrics.rise_curves import rise_deletion, rise_insertion
from apercu.metrics.road import RoadSettings, road
from apercu.metrics.saliency import saliency_metric
from apercu.metrics.sparsity import mean_area, sparsity
from apercu.metrics.total_variation import total_variation

__all__ = [
    "ExchangeScores",
    "Flipping",
    "FlippingCurves",
    "Metric",
    "MetricRecord",
    "RoadSettings",
    "average_drop",
    "background_invariance",
    "box_iou",
    "dauc",
    "dc",
    "drop_in_deletion",
    "energy",
    "flip_pixels",
    "get",
    "iauc",
    "ic",
    "increase",
    "iou",
    "iou_at_area",
    "iou_over_percentiles",
    "localisation_error",
    "make_metric",
    "max_box_acc_30",
    "max_box_acc_50",
    "max_box_acc_70",
    "max_box_acc_v2",
    "max_sensitivity",
    "mean_area",
    "measure_exchange",
    "move_regions",
    "names",
    "ncc",
    "pointing_game",
    "pointing_game_15",
    "randomisation",
    "replace_parts",
    "rise_deletion",
    "rise_insertion",
    "road",
    "saliency_metric",
    "sparsity",
    "total_variation",
]
