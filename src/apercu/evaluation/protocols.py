"""Published protocols: the metrics and settings under which a row can stand beside a paper's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from apercu.errors import ConfigError, suggest_nearest


@dataclass(frozen=True)
class Protocol:
    """A published way to measure.

    Attributes:
        source: the paper.
        metrics: the metrics by name.
        settings: other settings of a comparison, by name.
        differences: what differs from the published code here, in sentences.
    """

    source: str
    metrics: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    differences: str = ""


PROTOCOLS: Final[Mapping[str, Protocol]] = {
    "rise": Protocol(
        "Petsiuk et al. 2018",
        ("rise_deletion", "rise_insertion"),
        {"targets": "predicted"},
        "Equal values are flipped row by row from the top; the published code begins at the end.",
    ),
    "torchray": Protocol(
        "Zhang et al. 2018, as in TorchRay",
        ("pointing_game_15",),
        {"targets": "labels"},
        "The strongest pixel and the object are found at the size of the classifier's input, and "
        "their distance is converted into pixels of the picture; the published code first enlarges "
        "the map to the picture. Of equal strongest pixels the fraction counts that hits, not the "
        "first one. Hits are counted over images, not first over the images of each class; the "
        "subset of difficult images needs images with several classes, and is not made.",
    ),
    "maxboxacc": Protocol(
        "Choe et al. 2020",
        ("max_box_acc_30", "max_box_acc_50", "max_box_acc_70", "max_box_acc_v2"),
        {
            "targets": "labels",
            "thresholds_from": "same",
            "thresholds": tuple(k / 100 for k in range(1, 100)),
        },
        "Thresholds are 0.01 apart and begin at 0.01, not 0.001 apart from 0 on, and maps are not "
        "rounded to 8 bits before they are cut. Boxes end where their pixels end; the published "
        "code adds a pixel to each side when it computes overlaps, and rounds the corners of true "
        "boxes down. Images are squashed to the size of the classifier, not to 224 pixels. A hole "
        "in a region has no box of its own. MaxBoxAcc of its first version, which takes the "
        "largest part of a region only, is not measured.",
    ),
    "gomez": Protocol(
        "Gomez et al. 2022",
        ("dauc", "iauc", "dc", "ic", "sparsity"),
        {"targets": "predicted", "cells": 14},
        "The published code flips the cells of a map before it is enlarged. Here all maps are as "
        "large as the image: one that was enlarged bilinearly from a grid of `cells` per side has "
        "the cells of this grid (give their number, such as 7 for a CAM), any other one is "
        "averaged over the cells. The published code flips 256 scattered pixels per step instead "
        "where a map is as large as an image of 224 pixels.",
    ),
}
"""The protocols by name."""


def list_overrides(name: str, settings: Mapping[str, Any]) -> list[str]:
    """Return what is set otherwise than a protocol sets it, such as `cells 7 instead of 14`.

    >>> list_overrides("gomez", {"targets": "predicted", "cells": 7})
    ['cells 7 instead of 14']

    Args:
        name: the name of the protocol; of one that is not known here nothing is listed.
        settings: the settings of a comparison.

    Returns:
        A few words for each.
    """
    published = PROTOCOLS[name].settings if name in PROTOCOLS else {}
    return [
        f"{each} {_format_value(settings.get(each))} instead of {_format_value(value)}"
        for each, value in published.items()
        if _format_value(settings.get(each)) != _format_value(value)
    ]


def _format_value(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def get_protocol(name: str) -> Protocol:
    """Return a protocol by its name.

    >>> get_protocol("rise").metrics
    ('rise_deletion', 'rise_insertion')

    Raises:
        ConfigError: there is no such protocol.
    """
    if name not in PROTOCOLS:
        raise ConfigError(
            f"protocol: expected one of {', '.join(PROTOCOLS)}, got {name}"
            f"{suggest_nearest(name, PROTOCOLS)}"
        )
    return PROTOCOLS[name]
