"""Learning curves: a value against the number of labels, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from apercu.evaluation.report.axes import ChartFrame, build_svg, draw_axes


class LearningPoint(NamedTuple):
    """One point of a curve."""

    labels: int
    value: float
    low: float
    high: float


def draw_learning_curves(
    curves: Mapping[str, Sequence[LearningPoint]], coloured: Sequence[str], y_title: str
) -> str:
    """Curves over a logarithmic number of labels, each with its interval as upright lines.

    Args:
        curves: stops by name, in the order of their labels.
        coloured: names by colour.
        title: of the y axis.
    """
    stops = [stop for curve in curves.values() for stop in curve]
    fewest, most = min(stop.labels for stop in stops), max(stop.labels for stop in stops)
    floor, ceiling = min(stop.low for stop in stops), max(stop.high for stop in stops)
    margin = 0.05 * (ceiling - floor) or 0.05
    frame = ChartFrame((fewest / 1.2, most * 1.2), (floor - margin, ceiling + margin), log=True)
    parts = [draw_axes(frame, "labels", y_title)]
    for name, curve in curves.items():
        colour = f"s{coloured.index(name)}" if name in coloured else "rest"
        places = [(frame.x_position(float(stop.labels)), stop) for stop in curve]
        path = " ".join(f"{x:.1f},{frame.y_position(stop.value):.1f}" for x, stop in places)
        parts.append(
            f'<polyline class="{colour} marked" points="{path}">'
            f"<title>{escape(name)}</title></polyline>"
        )
        parts += [
            f'<path class="{colour}" d="M{x:.1f},{frame.y_position(stop.low):.1f}'
            f'V{frame.y_position(stop.high):.1f}"/>'
            for x, stop in places
        ]
    return build_svg(parts, f"{y_title} against labels")
