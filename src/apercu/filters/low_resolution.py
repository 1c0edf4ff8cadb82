"""Fewer pixels, and enlarged again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F

from apercu.filters.base import Filter
from apercu.filters.checks import check_whole
from apercu.types import Images


@final
@dataclass(frozen=True)
class LowResolution(Filter):
    """Averages over areas, and enlarges bilinearly again; the surrogate is the filter itself.

    Args:
        factor: factor by which each side becomes shorter; never below one pixel.

    Raises:
        ConfigError: a setting is out of range.
    """

    factor: int = 2

    def __post_init__(self) -> None:
        check_whole("low_resolution", 2, 64, factor=self.factor)

    def apply(self, images: Images) -> Images:
        return self.apply_surrogate(images).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        height, width = images.shape[2:]
        small = max(1, height // self.factor), max(1, width // self.factor)
        fewer = F.adaptive_avg_pool2d(images, small)
        return F.interpolate(fewer, (height, width), mode="bilinear", align_corners=False)
