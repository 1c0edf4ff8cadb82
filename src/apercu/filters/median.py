"""The median of each pixel's neighbourhood."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

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
        windows = extract_windows(images, self.width)
        if torch.compiler.is_exporting():  # ONNX sorts, and knows no median
            return windows.sort(dim=-1).values[..., self.width**2 // 2]
        return windows.median(dim=-1).values

    def apply_surrogate(self, images: Images) -> Images:
        return average_windows(pad_border(images, self.width // 2), self.width)
