"""Learning curves: a value against the number of labels, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from apercu.evaluation.report.axes import Frame, axes, svg


class Stop(NamedTuple):
    """One point of a curve."""

    labels: int
    value: float
    low: float
    high: float


def learning_curves(
    curves: Mapping[str, Sequence[Stop]], coloured: Sequence[str], title: str
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
    frame = Frame((fewest / 1.2, most * 1.2), (floor - margin, ceiling + margin), log=True)
    parts = [axes(frame, "labels", title)]
    for name, curve in curves.items():
        colour = f"s{coloured.index(name)}" if name in coloured else "rest"
        places = [(frame.across(float(stop.labels)), stop) for stop in curve]
        path = " ".join(f"{x:.1f},{frame.down(stop.value):.1f}" for x, stop in places)
        parts.append(
            f'<polyline class="{colour} marked" points="{path}">'
            f"<title>{escape(name)}</title></polyline>"
        )
        parts += [
            f'<path class="{colour}" d="M{x:.1f},{frame.down(stop.low):.1f}'
            f'V{frame.down(stop.high):.1f}"/>'
            for x, stop in places
        ]
    return svg(parts, f"{title} against labels")
