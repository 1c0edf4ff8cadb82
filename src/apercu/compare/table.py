"""Rows as a table for people: order, words, and where each interval lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor, log10
from typing import Any

from apercu.compare.results import Results, Row
from apercu.methods import TrueBox


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
        "overlap of the true mask with as many of the highest pixels",
    ),
    "iou_over_percentiles": Column(
        "Mean IoU", "mean IoU", "overlap with the true mask, averaged over 101 percentiles"
    ),
    "pointing_game": Column(
        "Pointing game", "the pointing game", "images whose highest pixel lies on the object"
    ),
    "energy": Column("Energy", "energy", "share of the evidence that lies on the object"),
    "ncc": Column("NCC", "NCC", "correlation of the map with the object"),
    "dauc": Column("DAUC", "DAUC", "area under the probability as the highest pixels go black"),
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


def headline(results: Results) -> str:
    """Who is first on what, in a sentence; who is first together is named together."""
    firsts: dict[str, list[str]] = {}
    for metric, column in COLUMNS.items():
        best = _best(results, metric)
        if best is not None:
            rivals = [row for row in results.rows if row.metric == metric]
            names = [r.explainer for r in rivals if r.value == best.value and not _told(results, r)]
            words = f"{column.words} ({value_text(column, best.value)})"
            firsts.setdefault(_and(names), []).append(words)
    parts = [f"First on {_and(words)}: {names}" for names, words in firsts.items()]
    return ". ".join(parts or ["Nothing was measured"]) + "."


def _and(words: Sequence[str]) -> str:
    *some, last = words
    return f"{', '.join(some)} and {last}" if some else last


def ranking(results: Results) -> list[dict[str, Any]]:
    """Table rows, best mean rank first; what knows the truth comes last, without a rank."""
    names = list(dict.fromkeys(row.explainer for row in results.rows))
    cells = {(row.explainer, row.metric): row for row in results.rows}
    ranks: dict[str, list[int]] = {name: [] for name in names}
    for metric in COLUMNS:
        rivals = [row for row in results.rows if row.metric == metric and not _told(results, row)]
        for place, row in enumerate(sorted(rivals, key=_merit)):
            ranks[row.explainer].append(place)
    order = sorted(names, key=lambda name: _mean(ranks[name]))
    return [
        {
            "name": name,
            "reference": not ranks[name],
            "cells": {
                metric: _cell(results, cells[name, metric])
                for metric in COLUMNS
                if (name, metric) in cells
            },
        }
        for name in order
    ]


def value_text(column: Column, value: float) -> str:
    """A value as people read it.

    >>> value_text(COLUMNS["localisation_error"], 0.344)
    '34.4\\xa0%'
    """
    return f"{value * column.scale:.{column.digits}f}{column.unit}".replace("-", "−")


def time_text(milliseconds: float) -> str:
    """Three significant digits, never with an exponent.

    >>> [time_text(value) for value in (0.01234, 7.5, 147.3, 5237.2)]
    ['0.0123', '7.50', '147', '5240']
    """
    if milliseconds <= 0:
        return "0"
    magnitude = floor(log10(milliseconds))
    return f"{round(milliseconds, 2 - magnitude):.{max(0, 2 - magnitude)}f}"


def _cell(results: Results, row: Row) -> dict[str, Any]:
    """Words for a value, and where its interval lies on the column's scale in per cent."""
    column = COLUMNS[row.metric]
    others = [other for other in results.rows if other.metric == row.metric]
    low = min(other.ci95[0] for other in others)
    span = max(other.ci95[1] for other in others) - low or 1.0
    best = _best(results, row.metric)
    return {
        "value": value_text(column, row.value),
        "interval": " to ".join(value_text(column, end) for end in row.ci95),
        "threshold": row.threshold,
        "threshold_from": row.threshold_from,
        "best": best is not None and row.value == best.value and not _told(results, row),
        "left": 100 * (row.ci95[0] - low) / span,
        "width": 100 * (row.ci95[1] - row.ci95[0]) / span,
        "point": 100 * (row.value - low) / span,
    }


def _best(results: Results, metric: str) -> Row | None:
    rivals = [row for row in results.rows if row.metric == metric and not _told(results, row)]
    return min(rivals, key=_merit, default=None)


def better(results: Results, metric: str) -> str:
    return next(row.better for row in results.rows if row.metric == metric)


def _merit(row: Row) -> float:
    return row.value if row.better == "lower" else -row.value


def _told(results: Results, row: Row) -> bool:
    """Whether a row was told the truth: a reference, not a rival."""
    return results.explainers.get(row.explainer) == TrueBox().identity


def _mean(ranks: Sequence[int]) -> float:
    return sum(ranks) / len(ranks) if ranks else float("inf")
