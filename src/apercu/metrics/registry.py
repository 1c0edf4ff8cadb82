"""All metrics by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from apercu.errors import ConfigError, suggest_nearest
from apercu.metrics.average_drop import AVERAGE_DROP, INCREASE
from apercu.metrics.background_invariance import BACKGROUND_INVARIANCE
from apercu.metrics.energy import ENERGY
from apercu.metrics.flipping import DAUC, DAUC_NC, DC, DC_NC, IAUC, IAUC_NC, IC, IC_NC
from apercu.metrics.iou import IOU
from apercu.metrics.localisation import LOCALISATION_ERROR
from apercu.metrics.max_sensitivity import MAX_SENSITIVITY
from apercu.metrics.ncc import NCC
from apercu.metrics.percentile_iou import IOU_AT_AREA, IOU_OVER_PERCENTILES
from apercu.metrics.pointing import POINTING_GAME
from apercu.metrics.randomisation import RANDOMISATION
from apercu.metrics.record import Metric
from apercu.metrics.road import ROAD
from apercu.metrics.saliency import SALIENCY_METRIC
from apercu.metrics.sparsity import SPARSITY
from apercu.metrics.total_variation import TOTAL_VARIATION

METRICS: Final[Mapping[str, Metric]] = {
    "saliency_metric": SALIENCY_METRIC,
    "localisation_error": LOCALISATION_ERROR,
    "iou": IOU,
    "iou_at_area": IOU_AT_AREA,
    "iou_over_percentiles": IOU_OVER_PERCENTILES,
    "pointing_game": POINTING_GAME,
    "energy": ENERGY,
    "ncc": NCC,
    "dauc": DAUC,
    "iauc": IAUC,
    "dc": DC,
    "ic": IC,
    "dauc_nc": DAUC_NC,
    "iauc_nc": IAUC_NC,
    "dc_nc": DC_NC,
    "ic_nc": IC_NC,
    "average_drop": AVERAGE_DROP,
    "increase": INCREASE,
    "road": ROAD,
    "sparsity": SPARSITY,
    "total_variation": TOTAL_VARIATION,
    "randomisation": RANDOMISATION,
    "max_sensitivity": MAX_SENSITIVITY,
    "background_invariance": BACKGROUND_INVARIANCE,
}
"""Metrics in the order of tables and reports."""


def get(name: str) -> Metric:
    """Return the record of a metric.

    >>> get("iou").better
    'higher'

    Raises:
        ConfigError: there is no such metric.
    """
    if name not in METRICS:
        raise ConfigError(
            f"metrics: expected some of {', '.join(METRICS)}, got {name}"
            f"{suggest_nearest(name, METRICS)}"
        )
    return METRICS[name]


def names() -> tuple[str, ...]:
    """Return the names of all metrics, in the order of tables and reports."""
    return tuple(METRICS)


def is_threshold_needed(metrics: Iterable[str]) -> bool:
    """Return whether any of the named metrics scores the region above a threshold."""
    return any(METRICS[name].thresholded for name in metrics)
