"""Learning curves as one HTML file that opens offline, with pictures of the features."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from PIL import Image

from apercu.evaluation.report import embed_image, render_style, render_template
from apercu.evaluation.report.charts import MAX_COLOURS, LearningPoint, draw_learning_curves
from apercu.io import write_file
from apercu.pretraining.few_labels import LearningCurveRow

REPORT, TABLE = "report.html", "table.md"
METRIC = "balanced_accuracy"


class LabelSaving(NamedTuple):
    """How many labels one start needs to be as good as another is with more.

    Attributes:
        needed: labels, interpolated along the curve.
        at_most: whether its first stop is already as good.
    """

    head: str
    start: str
    other: str
    value: float
    labels: int
    needed: float
    at_most: bool


def find_savings(rows: Sequence[LearningCurveRow]) -> list[LabelSaving]:
    """Every start against every other, head by head.

    At the most labels of the other for which the start needs fewer.
    """
    found = []
    curves = _group_curves(rows)
    for head, starts in curves.items():
        for start, stops in starts.items():
            for other, theirs in starts.items():
                if other == start:
                    continue
                for stop in reversed(theirs):
                    needed = interpolate_labels(stop.value, stops)
                    if needed < stop.labels:
                        at_most = needed <= stops[0].labels
                        saving = (head, start, other, stop.value, stop.labels, needed, at_most)
                        found.append(LabelSaving(*saving))
                        break
    return found


def interpolate_labels(value: float, stops: Sequence[LearningPoint]) -> float:
    """Labels at which a curve first reaches a value, between two stops along the logarithm.

    Infinite where it never does.

    >>> stops = [Stop(10, 0.5, 0.5, 0.5), Stop(1000, 0.9, 0.9, 0.9)]
    >>> round(labels_for(0.7, stops)), labels_for(0.4, stops), labels_for(0.95, stops)
    (100, 10.0, inf)
    """
    if stops[0].value >= value:
        return float(stops[0].labels)
    for before, after in pairwise(stops):
        if after.value >= value:
            share = (value - before.value) / (after.value - before.value)
            low, high = math.log(before.labels), math.log(after.labels)
            return math.exp(low + share * (high - low))
    return math.inf


def write_report(
    rows: Sequence[LearningCurveRow],
    planes: Mapping[str, Image.Image],
    content: Mapping[str, Any],
    folder: Path,
) -> Path:
    """Writes `report.html`, and its table as `table.md`.

    Args:
        rows: of all networks and heads.
        planes: pictures of the features by network.
        content: what `features.json` says besides the rows.
        folder: where it goes.

    Raises:
        OutputError: the folder cannot be written.
    """
    coloured = list(dict.fromkeys(row.start for row in rows))[:MAX_COLOURS]
    charts = [
        {
            "title": head,
            "drawing": Markup(draw_learning_curves(starts, coloured, "balanced accuracy")),
            "names": coloured,
        }
        for head, starts in _group_curves(rows).items()
    ]
    counts = sorted({row.labels for row in rows})
    page = render_template(
        (files("apercu.pretraining") / "features.html").read_text(),
        style=render_style(1),
        about=content,
        charts=charts,
        counts=counts,
        table=list(_make_table(rows, counts)),
        savings=find_savings(rows),
        planes={name: embed_image(picture, picture.width) for name, picture in planes.items()},
    )
    write_file(folder / TABLE, format_markdown(rows))
    return write_file(folder / REPORT, page)


def format_markdown(rows: Sequence[LearningCurveRow]) -> str:
    """Balanced accuracy in %, networks and heads against numbers of labels."""
    counts = sorted({row.labels for row in rows})
    lines = [
        f"| features, head | {' | '.join(f'{count:,} labels' for count in counts)} |",
        f"|---|{'---|' * len(counts)}",
    ]
    for start, head, cells in _make_table(rows, counts):
        lines.append(f"| {start}, {head} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _group_curves(rows: Iterable[LearningCurveRow]) -> dict[str, dict[str, list[LearningPoint]]]:
    """Stops by head and start, in the order of their labels."""
    curves: dict[str, dict[str, list[LearningPoint]]] = {}
    for row in rows:
        if row.metric == METRIC:
            stop = LearningPoint(row.labels, row.value, *row.ci95)
            curves.setdefault(row.head, {}).setdefault(row.start, []).append(stop)
    for starts in curves.values():
        for stops in starts.values():
            stops.sort()
    return curves


def _make_table(
    rows: Sequence[LearningCurveRow], counts: Sequence[int]
) -> Iterable[tuple[str, str, list[str]]]:
    for head, starts in _group_curves(rows).items():
        for start, stops in starts.items():
            known = {stop.labels: stop for stop in stops}
            yield start, head, [_format_cell(known.get(count)) for count in counts]


def _format_cell(stop: LearningPoint | None) -> str:
    """A value with its interval, in %.

    >>> _cell(Stop(10, 0.5, 0.4, 0.61))
    '50.0 (40 to 61)'
    """
    if stop is None:
        return ""
    return f"{100 * stop.value:.1f} ({100 * stop.low:.0f} to {100 * stop.high:.0f})"
