"""How metrics, values and times are written for people."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log10


@dataclass(frozen=True)
class Column:
    """How a metric is written for people."""

    title: str
    words: str
    meaning: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""


COLUMNS = {
    "saliency_metric": Column(
        "Saliency metric",
        "the saliency metric",
        "log area − log probability of the crop around the evidence, in nats",
    ),
    "localisation_error": Column(
        "Localisation error",
        "localisation error",
        "images whose box misses the true one (IoU ≤ 0.5)",
        100.0,
        1,
        "\u00a0%",
    ),
    "iou": Column("IoU", "IoU", "overlap of the evidence with the true mask, pixel by pixel"),
    "iou_at_area": Column(
        "IoU at the true area",
        "IoU at the true area",
        "overlap of the object with as many of the highest pixels",
    ),
    "iou_over_percentiles": Column(
        "Mean IoU", "mean IoU", "overlap with the object, averaged over 101 percentiles"
    ),
    "pointing_game": Column(
        "Pointing game", "the pointing game", "images whose highest pixel lies on the object"
    ),
    "energy": Column("Energy", "energy", "share of the evidence that lies on the object"),
    "ncc": Column("NCC", "NCC", "correlation of the map with the object"),
    "dauc": Column(
        "DAUC", "DAUC", "area under the probability as the highest pixels turn mean colour"
    ),
    "iauc": Column("IAUC", "IAUC", "area under the probability as they return to a blurred image"),
    "dc": Column("DC", "DC", "correlation of the map with what each deletion takes away"),
    "ic": Column("IC", "IC", "correlation of the map with what each insertion brings"),
    "dauc_nc": Column("DAUC-nc", "DAUC-nc", "as DAUC, each step on its own"),
    "iauc_nc": Column("IAUC-nc", "IAUC-nc", "as IAUC, each step on its own"),
    "dc_nc": Column("DC-nc", "DC-nc", "as DC, each step on its own"),
    "ic_nc": Column("IC-nc", "IC-nc", "as IC, each step on its own"),
    "average_drop": Column(
        "Average drop", "average drop", "share of the probability lost when seen through the map"
    ),
    "increase": Column(
        "Increase", "increase", "images whose probability grows when seen through the map"
    ),
    "road": Column("ROAD", "ROAD", "gap between imputing the least and the most relevant pixels"),
    "sparsity": Column("Sparsity", "sparsity", "highest value over the mean", digits=1),
    "total_variation": Column(
        "Total variation", "total variation", "mean difference of neighbouring pixels", digits=4
    ),
    "randomisation": Column(
        "Randomisation",
        "randomisation",
        "rank correlation that survives random weights in the classifier",
    ),
    "max_sensitivity": Column(
        "Sensitivity", "sensitivity", "largest change of the map under small noise"
    ),
    "background_invariance": Column(
        "Background",
        "background invariance",
        "share of the evidence that leaves the object on another background",
    ),
}


def format_value(column: Column, value: float) -> str:
    """A value as people read it.

    >>> value_text(COLUMNS["localisation_error"], 0.344)
    '34.4\\xa0%'
    """
    return f"{value * column.scale:.{column.digits}f}{column.unit}".replace("-", "−")


def format_milliseconds(milliseconds: float) -> str:
    """Three significant digits, never with an exponent.

    >>> [time_text(value) for value in (0.01234, 7.5, 147.3, 5237.2)]
    ['0.0123', '7.50', '147', '5240']
    """
    if milliseconds <= 0:
        return "0"
    magnitude = floor(log10(milliseconds))
    return f"{round(milliseconds, 2 - magnitude):.{max(0, 2 - magnitude)}f}"
