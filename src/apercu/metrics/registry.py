"""All metrics by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from apercu.classifiers.trust import FACTORY
from apercu.errors import ConfigError, suggest_nearest
from apercu.metrics.average_drop import AVERAGE_DROP, INCREASE
from apercu.metrics.background_invariance import BACKGROUND_INVARIANCE
from apercu.metrics.energy import ENERGY
from apercu.metrics.flipping import DAUC, DAUC_NC, DC, DC_NC, IAUC, IAUC_NC, IC, IC_NC
from apercu.metrics.iou import IOU
from apercu.metrics.localisation import LOCALISATION_ERROR
from apercu.metrics.max_box_acc import (
    MAX_BOX_ACC_30,
    MAX_BOX_ACC_50,
    MAX_BOX_ACC_70,
    MAX_BOX_ACC_V2,
)
from apercu.metrics.max_sensitivity import MAX_SENSITIVITY
from apercu.metrics.ncc import NCC
from apercu.metrics.percentile_iou import IOU_AT_AREA, IOU_OVER_PERCENTILES
from apercu.metrics.pointing import POINTING_GAME, POINTING_GAME_15
from apercu.metrics.randomisation import RANDOMISATION
from apercu.metrics.record import Metric, MetricRecord
from apercu.metrics.rise_curves import RISE_DELETION, RISE_INSERTION
from apercu.metrics.road import ROAD
from apercu.metrics.saliency import SALIENCY_METRIC
from apercu.metrics.sparsity import SPARSITY
from apercu.metrics.total_variation import TOTAL_VARIATION
from apercu.own_code import import_own

METRICS: Final[Mapping[str, Metric]] = {
    "saliency_metric": SALIENCY_METRIC,
    "localisation_error": LOCALISATION_ERROR,
    "max_box_acc_30": MAX_BOX_ACC_30,
    "max_box_acc_50": MAX_BOX_ACC_50,
    "max_box_acc_70": MAX_BOX_ACC_70,
    "max_box_acc_v2": MAX_BOX_ACC_V2,
    "iou": IOU,
    "iou_at_area": IOU_AT_AREA,
    "iou_over_percentiles": IOU_OVER_PERCENTILES,
    "pointing_game": POINTING_GAME,
    "pointing_game_15": POINTING_GAME_15,
    "energy": ENERGY,
    "ncc": NCC,
    "dauc": DAUC,
    "iauc": IAUC,
    "dc": DC,
    "ic": IC,
    "rise_deletion": RISE_DELETION,
    "rise_insertion": RISE_INSERTION,
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

    A metric from outside the package is named `package.module:NAME` or `FILE.py:NAME`, and its
    code runs.

    >>> get("iou").better
    'higher'

    Args:
        name: the name as a person typed it.

    Returns:
        The metric.

    Raises:
        ConfigError: there is no such metric, or it has no record.
    """
    if name in METRICS:
        return METRICS[name]
    if not FACTORY.fullmatch(name):
        raise ConfigError(
            f"metrics: expected some of {', '.join(METRICS)}, package.module:NAME, got {name}"
            f"{suggest_nearest(name, METRICS)}"
        )
    return check_own(import_own(name, "metrics"), f"metrics: {name}")


def check_own(given: object, label: str) -> Metric:
    """Return a metric that was passed in or imported, after a check.

    Args:
        given: what should be a metric.
        label: the start of an error line.

    Returns:
        The same metric.

    Raises:
        ConfigError: it is no `Metric`, has the name of a metric of the package, or is the mean of
            other metrics than those.
    """
    if not isinstance(given, Metric):
        kind = getattr(given, "__name__", type(given).__name__)
        raise ConfigError(
            f"{label}: {kind} has no record of its direction and meaning; write "
            '@apercu.metrics.make_metric(better="higher", meaning="…") above the function, or '
            "make an apercu.metrics.Metric of it"
        )
    if METRICS.get(given.name, given) is not given:
        raise ConfigError(
            f"{label}: {given.name} is a metric of apercu already; give yours another name"
        )
    if others := set(given.mean_of) - set(METRICS):
        raise ConfigError(
            f"{label}: expected mean_of to name metrics of apercu, got {', '.join(sorted(others))}"
        )
    return given


def names() -> tuple[str, ...]:
    """Return the names of all metrics, in the order of tables and reports."""
    return tuple(METRICS)


def is_threshold_needed(metrics: Iterable[str | MetricRecord]) -> bool:
    """Return whether any of the metrics scores the region above a threshold.

    Args:
        metrics: names of metrics of the package, or records.

    Returns:
        Whether one is cut.
    """
    return any((METRICS[m] if isinstance(m, str) else m).thresholded for m in metrics)
