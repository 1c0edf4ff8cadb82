"""The frame of a chart: axes with round numbers, and places of values in the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from math import ceil, floor, log10

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
