"""The median of each pixel's neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from apercu.filters.base import Filter, average_windows, extract_windows, pad_border
from apercu.filters.checks import check_width
from apercu.types import Images


@final
@dataclass(frozen=True)
class Median(Filter):
    """Takes the median of a square in each channel; the surrogate is the mean of the same square.

    Borders are repeated.

    Args:
        width: width of the square in pixels, odd, at most 25.

    Raises:
        ConfigError: a setting is out of range.
    """

    width: int = 3

    def __post_init__(self) -> None:
        check_width("median", width=self.width)

    def apply(self, images: Images) -> Images:
        return extract_windows(images, self.width).median(dim=-1).values

    def apply_surrogate(self, images: Images) -> Images:
        return average_windows(pad_border(images, self.width // 2), self.width)
