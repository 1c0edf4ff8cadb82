"""Results and pictures as one HTML file that opens offline, on a phone too."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from PIL import Image

from apercu import render
from apercu.compare import Results, Row
from apercu.methods import TrueBox
from apercu.output import write


@dataclass(frozen=True)
class Shot:
    """One image under every explainer, in the same order for all images."""

    name: str
    caption: str
    picture: Image.Image
    views: Mapping[str, Image.Image]


@dataclass(frozen=True)
class Column:
    """How a metric is written for people."""

    title: str
    meaning: str
    scale: float = 1.0
    digits: int = 3
    unit: str = ""


COLUMNS = {
    "saliency_metric": Column(
        "Saliency metric", "log area − log probability of the crop around the evidence, in nats"
    ),
    "localisation_error": Column(
        "Localisation error", "images whose box misses the true one (IoU ≤ 0.5)", 100, 1, " %"
    ),
    "iou": Column("IoU", "overlap of the evidence with the true mask, pixel by pixel"),
}
SIDE = 240


def write_report(results: Results, shots: Sequence[Shot], path: Path, command: str) -> Path:
    """Write one self-contained page: headline, ranking, costs, gallery, how to make it again.

    `command` is what a reader types to get these results. Raises `OutputError`.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("apercu") / "templates/report.html").read_text())
    metrics = [name for name in COLUMNS if any(row.metric == name for row in results.rows)]
    page = template.render(
        results=results,
        subject=results.subject,
        headline=headline(results),
        columns=[(name, COLUMNS[name], _better(results, name)) for name in metrics],
        table=ranking(results),
        heat=", ".join(render.HEAT),
        shots=[_embedded(shot) for shot in shots],
        views=max((len(shot.views) for shot in shots), default=0),
        command=command,
    )
    return write(path, page)


def headline(results: Results) -> str:
    """Who is first on what, in a sentence."""
    firsts: dict[str, list[str]] = {}
    for metric, column in COLUMNS.items():
        best = _best(results, metric)
        if best is not None:
            words = f"{column.title} {value_text(column, best.value)}"
            firsts.setdefault(best.explainer, []).append(words)
    parts = [f"{name} is first on {' and '.join(words)}" for name, words in firsts.items()]
    return ("; ".join(parts) or "Nothing was measured") + "."


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
    '34.4 %'
    """
    return f"{value * column.scale:.{column.digits}f}{column.unit}".replace("-", "−")


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


def _better(results: Results, metric: str) -> str:
    return next(row.better for row in results.rows if row.metric == metric)


def _merit(row: Row) -> float:
    return row.value if row.better == "lower" else -row.value


def _told(results: Results, row: Row) -> bool:
    """Whether a row was told the truth: a reference, not a rival."""
    return results.explainers.get(row.explainer) == TrueBox().identity


def _mean(ranks: Sequence[int]) -> float:
    return sum(ranks) / len(ranks) if ranks else float("inf")


def _embedded(shot: Shot) -> dict[str, Any]:
    pictures = {"image": shot.picture, **shot.views}
    return {
        "name": shot.name,
        "caption": shot.caption,
        "pictures": {name: _data(image) for name, image in pictures.items()},
    }


def _data(image: Image.Image) -> str:
    """A picture inside the page."""
    jpeg = render.encode(render.fit(image, SIDE), "JPEG")
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
