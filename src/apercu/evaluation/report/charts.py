"""The frame of a chart: axes with round numbers, and places of values in the drawing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10
from typing import NamedTuple

WIDTH, HEIGHT = 420, 320
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 26, 40


@dataclass(frozen=True)
class ChartFrame:
    """From values to places in the drawing; x may be logarithmic."""

    x: tuple[float, float]
    y: tuple[float, float]
    log: bool = False

    def x_position(self, value: float) -> float:
        low, high = (log10(end) for end in self.x) if self.log else self.x
        share = ((log10(value) if self.log else value) - low) / (high - low)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y_position(self, value: float) -> float:
        share = (value - self.y[0]) / (self.y[1] - self.y[0])
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def build_svg(parts: Sequence[str], label: str) -> str:
    """A drawing of parts, with a name for those who cannot see it."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def draw_axes(frame: ChartFrame, x_title: str, y_title: str) -> str:
    """Both axes with their grid and titles."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}"/>']
    for value in _choose_ticks(*frame.y):
        y = frame.y_position(value)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{right}"/>')
        parts.append(
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_format_number(value)}</text>'
        )
    for value in _list_decades(*frame.x) if frame.log else _choose_ticks(*frame.x):
        x = frame.x_position(value)
        parts.append(f'<path class="grid" d="M{x:.1f},{TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">{_format_number(value)}</text>'
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">'
        f"{escape(x_title)}</text>"
    )
    parts.append(f'<text class="title" x="4" y="14">{escape(y_title)}</text>')
    return "".join(parts)


def _choose_ticks(low: float, high: float) -> list[float]:
    """Four to eight round values within the ends."""
    rough = (high - low) / 5
    size = 10.0 ** floor(log10(rough))
    step = next(size * nice for nice in (1, 2, 2.5, 5, 10) if size * nice >= rough)
    return [step * n for n in range(ceil(low / step), floor(high / step) + 1)]


def _list_decades(low: float, high: float) -> list[float]:
    """Powers of ten within the ends, of few also their double and half.

    >>> _decades(1.0, 1000.0), _decades(30.0, 400.0)
    ([1.0, 10.0, 100.0, 1000.0], [50.0, 100.0, 200.0])
    """
    powers = [10.0**n for n in range(floor(log10(low)), ceil(log10(high)) + 1)]
    inside = [power for power in powers if low <= power <= high]
    if len(inside) > 2:
        return inside
    return [power * n for power in powers for n in (1, 2, 5) if low <= power * n <= high]


def _format_number(value: float) -> str:
    """As short as it can be, with a true minus.

    >>> [_number(value) for value in (-0.25, 0.30000000000000004, 1000.0, 0.01)]
    ['−0.25', '0.3', '1,000', '0.01']
    """
    return f"{round(value, 6):,g}".replace("-", "−")


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
