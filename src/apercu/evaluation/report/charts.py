"""Charts as SVG inside a page; the page's style sheet gives them their colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

from apercu.evaluation.report.axes import LEFT, TOP, WIDTH, ChartFrame, build_svg, draw_axes

LETTER_WIDTH, LINE_HEIGHT = 6.2, 12.0
"""Width and height of a letter of a label, in pixels of the drawing."""
BOLD_FACTOR = 1.15
"""How much wider the letters of a marked label are."""
MAX_COLOURS = 6
"""Curves that get a colour of their own; the others are grey."""


class ScatterPoint(NamedTuple):
    """One explainer in a scatter plot; a marked one keeps its label whatever it covers."""

    name: str
    x: float
    y: float
    marked: bool


class Rect(NamedTuple):
    """Where something is drawn."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Rect) -> bool:
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def draw_scatter(points: Sequence[ScatterPoint], x_title: str, y_title: str) -> str:
    """Points by name, x on a logarithmic axis.

    Labels keep out of each other's way; one that finds no room is seen only when pointed at. The
    first points choose first.
    """
    exponents = [log10(point.x) for point in points]
    values = [point.y for point in points]
    first = floor(min(exponents))
    last = max(ceil(max(exponents)), first + 1)
    margin = 0.08 * (max(values) - min(values)) or 0.5
    frame = ChartFrame(
        (10.0**first, 10.0**last), (min(values) - margin, max(values) + margin), log=True
    )
    parts = [draw_axes(frame, x_title, y_title)]
    taken = [_marker_rect(frame.x_position(point.x), frame.y_position(point.y)) for point in points]
    for point in sorted(points, key=lambda point: not point.marked):
        x, y = frame.x_position(point.x), frame.y_position(point.y)
        name = escape(point.name)
        parts.append(
            f'<g class="{"marked" if point.marked else "other"}">'
            f"<title>{name}: {point.x:.3g}, {point.y:.3g}</title>"
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if point.marked else 3.5}"/>'
            f"{_place_label(point, x, y, taken)}</g>"
        )
    return build_svg(parts, f"{y_title} against {x_title}")


def draw_lines(
    curves: Mapping[str, Sequence[float]],
    coloured: Sequence[str],
    marked: Iterable[str],
    x_title: str,
    *,
    y_title: str = "probability of the class",
    x_end: float = 100.0,
) -> str:
    """Curves at equal steps from 0 to `last`; a legend names the coloured ones.

    Args:
        curves: by name; the first are drawn on top.
        coloured: names by colour; the others are grey.
        marked: names that are drawn thick.
        title: of the x axis.
        height: title of the y axis.
        last: where the x axis ends.
    """
    highest = max(max(curve) for curve in curves.values())
    frame = ChartFrame((0.0, x_end), (0.0, max(highest * 1.05, 1e-3)))
    thick = set(marked)
    parts = [draw_axes(frame, x_title, y_title)]
    for name, curve in reversed(list(curves.items())):
        steps = len(curve) - 1
        path = " ".join(
            f"{frame.x_position(x_end * step / steps):.1f},{frame.y_position(value):.1f}"
            for step, value in enumerate(curve)
        )
        colour = f"s{coloured.index(name)}" if name in coloured else "rest"
        kind = f"{colour} marked" if name in thick else colour
        parts.append(
            f'<polyline class="{kind}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
    return build_svg(parts, x_title)


def _marker_rect(x: float, y: float) -> Rect:
    """What a point itself covers."""
    return Rect(x - 4, y - 4, x + 4, y + 4)


def _place_label(point: ScatterPoint, x: float, y: float, taken: list[Rect]) -> str:
    """The label right or left of its point, a little above or below, where there is room.

    The place is added to `taken`.
    """
    wide = LETTER_WIDTH * len(point.name) * (BOLD_FACTOR if point.marked else 1)
    for rise in (0, -1, 1):
        middle = y + rise * LINE_HEIGHT
        for left, anchor in ((x + 7, "start"), (x - 7 - wide, "end")):
            rect = Rect(left, middle - 6, left + wide, middle + 6)
            inside = rect.left >= LEFT and rect.right <= WIDTH and rect.top >= TOP - 8
            free = not any(rect.overlaps(other) for other in taken if other != _marker_rect(x, y))
            if point.marked and not inside:  # moved into the drawing
                left = min(max(left, LEFT), max(LEFT, WIDTH - wide))
                rect = Rect(left, middle - 6, left + wide, middle + 6)
            if point.marked or (inside and free):
                taken.append(rect)
                at = left if anchor == "start" else left + wide
                return (
                    f'<text x="{at:.1f}" y="{middle + 4:.1f}" text-anchor="{anchor}">'
                    f"{escape(point.name)}</text>"
                )
    return ""
