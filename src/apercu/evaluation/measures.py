"""The metrics that a comparison knows: which way is better, and what each needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Better: TypeAlias = Literal["lower", "higher"]
Truth: TypeAlias = Literal["none", "boxes", "region", "any"]
"""What must be known of an image: nothing, boxes, a mask, or one of the two."""


@dataclass(frozen=True)
class Measure:
    """What a comparison must know of a metric, apart from its formula.

    Attributes:
        better: lower or higher values.
        truth: what must be known of an image.
        cut: judges the region above a threshold, which is chosen on images of its own.
        again: asks the explainer for further maps.
        named: measured only when it is named.
    """

    better: Better
    truth: Truth = "none"
    cut: bool = False
    again: bool = False
    named: bool = False


MEASURES: Final[Mapping[str, Measure]] = {
    "saliency_metric": Measure("lower", cut=True),
    "localisation_error": Measure("lower", "boxes", cut=True),
    "iou": Measure("higher", "region", cut=True),
    "iou_at_area": Measure("higher", "any"),
    "iou_over_percentiles": Measure("higher", "any"),
    "pointing_game": Measure("higher", "any"),
    "energy": Measure("higher", "any"),
    "ncc": Measure("higher", "any"),
    "dauc": Measure("lower"),
    "iauc": Measure("higher"),
    "dc": Measure("higher"),
    "ic": Measure("higher"),
    "dauc_nc": Measure("lower", named=True),
    "iauc_nc": Measure("higher", named=True),
    "dc_nc": Measure("higher", named=True),
    "ic_nc": Measure("higher", named=True),
    "average_drop": Measure("lower"),
    "increase": Measure("higher"),
    "road": Measure("higher"),
    "sparsity": Measure("higher"),
    "total_variation": Measure("lower"),
    "randomisation": Measure("lower", again=True),
    "max_sensitivity": Measure("lower", again=True),
    "background_invariance": Measure("lower", "region", again=True),
}

METRICS: Final = tuple(MEASURES)


def cuts(metrics: Iterable[str]) -> bool:
    """Whether one of them needs a threshold."""
    return any(MEASURES[metric].cut for metric in metrics)
