"""Charts as SVG inside a page; the page's style sheet gives them their colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

WIDTH, HEIGHT = 420, 320
"""Size of a drawing."""
LEFT, RIGHT, TOP, BOTTOM = 46, 22, 26, 40
"""Margins around the axes."""
LETTER_WIDTH, LINE_HEIGHT = 7.3, 14.0
"""Width and height of a letter of a label."""
BOLD_FACTOR = 1.15
"""How much wider the letters of a marked label are."""
MAX_COLOURS = 6
"""Curves that get a colour of their own; the others are grey."""


@dataclass(frozen=True)
class ScatterPoint:
    """One explainer in a scatter plot, with the interval of y; a marked one keeps its label."""

    name: str
    x: float
    y: float
    marked: bool
    ci95: tuple[float, float] | None = None

    @property
    def y_range(self) -> tuple[float, float]:
        """The lowest and the highest value that is drawn."""
        return self.ci95 or (self.y, self.y)


@dataclass(frozen=True)
class LearningPoint:
    """One point of a learning curve: a value and its interval at a number of labels."""

    labels: int
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ChartFrame:
    """The ranges of both axes, and where values lie in the drawing; x may be logarithmic."""

    x_range: tuple[float, float]
    y_range: tuple[float, float]
    log: bool = False

    def x_position(self, value: float) -> float:
        """Return the distance of a value from the left edge of the drawing."""
        low, high = (log10(end) for end in self.x_range) if self.log else self.x_range
        fraction = ((log10(value) if self.log else value) - low) / (high - low)
        return LEFT + fraction * (WIDTH - LEFT - RIGHT)

    def y_position(self, value: float) -> float:
        """Return the distance of a value from the upper edge of the drawing."""
        low, high = self.y_range
        fraction = (value - low) / (high - low)
        return HEIGHT - BOTTOM - fraction * (HEIGHT - TOP - BOTTOM)


@dataclass(frozen=True)
class Rect:
    """The area that a part of the drawing covers."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Rect) -> bool:
        """Whether two areas have more than an edge in common."""
        apart = self.right <= other.left or other.right <= self.left
        return not (apart or self.bottom <= other.top or other.bottom <= self.top)


def draw_scatter(points: Sequence[ScatterPoint], x_title: str, y_title: str) -> str:
    """Return a scatter plot with names, x on a logarithmic axis.

    Labels do not overlap. Marked points are placed first, then the others in their order. A label
    without room is left out; its name still appears when the mouse is over the point.
    """
    exponents = [log10(point.x) for point in points]
    values = [end for point in points for end in (point.y, *point.y_range)]
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
        low, high = (frame.y_position(end) for end in point.y_range)
        bar = f'<path d="M{x:.1f},{low:.1f}V{high:.1f}"/>' if point.ci95 else ""
        parts.append(
            f'<g class="{"marked" if point.marked else "other"}">'
            f"<title>{name}: {point.x:.3g}, {point.y:.3g}</title>"
            f'{bar}<circle cx="{x:.1f}" cy="{y:.1f}" r="{5 if point.marked else 3.5}"/>'
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
    x_values: Sequence[float] | None = None,
) -> str:
    """Return curves over an axis from 0 to `x_end`.

    Args:
        curves: the values of each curve by name; the first curves are drawn on top.
        coloured: the names that have a colour, in the order of the colours; the others are grey.
        marked: the names that are drawn thick.
        x_title: the title of the x axis.
        y_title: the title of the y axis.
        x_end: the value at the end of the x axis.
        x_values: where the values of every curve are; at equal steps over the axis when None.

    Returns:
        The chart as SVG.
    """
    highest = max(max(curve) for curve in curves.values())
    frame = ChartFrame((0.0, x_end), (0.0, max(highest * 1.05, 1e-3)))
    thick = set(marked)
    parts = [draw_axes(frame, x_title, y_title)]
    for name, curve in reversed(list(curves.items())):
        steps = len(curve) - 1
        places = x_values or [x_end * step / steps for step in range(len(curve))]
        path = " ".join(
            f"{frame.x_position(x):.1f},{frame.y_position(value):.1f}"
            for x, value in zip(places, curve, strict=True)
        )
        colour = f"s{coloured.index(name)}" if name in coloured else "rest"
        kind = f"{colour} marked" if name in thick else colour
        parts.append(
            f'<polyline class="{kind}" points="{path}"><title>{escape(name)}</title></polyline>'
        )
    return build_svg(parts, x_title)


def draw_learning_curves(
    curves: Mapping[str, Sequence[LearningPoint]], coloured: Sequence[str], y_title: str
) -> str:
    """Return curves over a logarithmic number of labels, each point with its interval.

    Args:
        curves: the points of each curve by name, in the order of their labels.
        coloured: the names that have a colour, in the order of the colours; the others are grey.
        y_title: the title of the y axis.

    Returns:
        The chart as SVG.
    """
    points = [point for curve in curves.values() for point in curve]
    fewest, most = min(point.labels for point in points), max(point.labels for point in points)
    lowest, highest = min(point.low for point in points), max(point.high for point in points)
    margin = 0.05 * (highest - lowest) or 0.05
    frame = ChartFrame((fewest / 1.2, most * 1.2), (lowest - margin, highest + margin), log=True)
    parts = [draw_axes(frame, "labels", y_title)]
    for name, curve in curves.items():
        colour = f"s{coloured.index(name)}" if name in coloured else "rest"
        positions = [(frame.x_position(float(point.labels)), point) for point in curve]
        path = " ".join(f"{x:.1f},{frame.y_position(point.value):.1f}" for x, point in positions)
        parts.append(
            f'<polyline class="{colour} marked" points="{path}">'
            f"<title>{escape(name)}</title></polyline>"
        )
        parts += [
            f'<path class="{colour}" d="M{x:.1f},{frame.y_position(point.low):.1f}'
            f'V{frame.y_position(point.high):.1f}"/>'
            for x, point in positions
        ]
    return build_svg(parts, f"{y_title} against labels")


def build_svg(parts: Sequence[str], label: str) -> str:
    """Return a drawing of parts, with a label for screen readers."""
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def draw_axes(frame: ChartFrame, x_title: str, y_title: str) -> str:
    """Return both axes with their grid and titles."""
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = [f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}"/>']
    for value in _choose_ticks(*frame.y_range):
        y = frame.y_position(value)
        parts.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{right}"/>')
        parts.append(
            f'<text x="{LEFT - 5}" y="{y + 4:.1f}" text-anchor="end">{_format_number(value)}</text>'
        )
    for value in _list_decades(*frame.x_range) if frame.log else _choose_ticks(*frame.x_range):
        x = frame.x_position(value)
        parts.append(f'<path class="grid" d="M{x:.1f},{TOP}V{bottom}"/>')
        parts.append(
            f'<text x="{x:.1f}" y="{bottom + 15}" text-anchor="middle">'
            f"{_format_number(value)}</text>"
        )
    middle = (LEFT + right) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 7}" text-anchor="middle">'
        f"{escape(x_title)}</text>"
    )
    parts.append(f'<text class="title" x="4" y="14">{escape(y_title)}</text>')
    return "".join(parts)


def _marker_rect(x: float, y: float) -> Rect:
    """Return the area that the circle of a point covers."""
    return Rect(x - 4, y - 4, x + 4, y + 4)


def _place_label(point: ScatterPoint, x: float, y: float, taken: list[Rect]) -> str:
    """Return the label right or left of its point, where there is room, or no label.

    Its area is added to `taken`.
    """
    wide = LETTER_WIDTH * len(point.name) * (BOLD_FACTOR if point.marked else 1)
    for rise in (0, -1, 1):
        middle = y + rise * LINE_HEIGHT
        for left, anchor in ((x + 7, "start"), (x - 7 - wide, "end")):
            rect = Rect(left, middle - 6, left + wide, middle + 6)
            inside = rect.left >= LEFT and rect.right <= WIDTH and rect.top >= TOP - 8
            free = not any(rect.overlaps(other) for other in taken if other != _marker_rect(x, y))
            if point.marked and not inside:  # move it into the drawing
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


def _choose_ticks(low: float, high: float) -> list[float]:
    """Return four to eight round values within the ends."""
    rough = (high - low) / 5
    size = 10.0 ** floor(log10(rough))
    step = next(size * nice for nice in (1, 2, 2.5, 5, 10) if size * nice >= rough)
    return [step * n for n in range(ceil(low / step), floor(high / step) + 1)]


def _list_decades(low: float, high: float) -> list[float]:
    """Return the powers of ten within the ends; of few powers also their double and fivefold.

    >>> _list_decades(1.0, 1000.0), _list_decades(30.0, 400.0)
    ([1.0, 10.0, 100.0, 1000.0], [50.0, 100.0, 200.0])
    """
    powers = [10.0**n for n in range(floor(log10(low)), ceil(log10(high)) + 1)]
    inside = [power for power in powers if low <= power <= high]
    if len(inside) > 2:
        return inside
    return [power * n for power in powers for n in (1, 2, 5) if low <= power * n <= high]


def _format_number(value: float) -> str:
    """Return a number in its shortest form, with a true minus sign.

    >>> [_format_number(value) for value in (-0.25, 0.30000000000000004, 1000.0, 0.01)]
    ['−0.25', '0.3', '1,000', '0.01']
    """
    return f"{round(value, 6):,g}".replace("-", "−")
