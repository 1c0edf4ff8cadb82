"""Non-local means: the mean of the pixels whose surroundings look alike."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import final

import torch

from apercu.filters.base import Filter, average_windows, pad_border
from apercu.filters.checks import check_between, check_width
from apercu.types import Images


@final
@dataclass(frozen=True)
class NonLocalMeans(Filter):
    """Averages pixels with weights exp(−d² / strength²) (Buades 2005).

    d² is the mean squared difference of the patches around two pixels. All channels have the same
    weight; borders are repeated. The surrogate is the filter itself.

    Args:
        strength: strength in pixel values, 0.001 to 10; more is smoother.
        window: width in pixels of the square that is searched, odd, at most 25.
        patch: width in pixels of the patches that are compared, odd, at most 25.

    Raises:
        ConfigError: a setting is out of range.
    """

    strength: float = 0.1
    window: int = 7
    patch: int = 3

    def __post_init__(self) -> None:
        check_between("non_local_means", 1e-3, 10.0, strength=self.strength)
        check_width("non_local_means", window=self.window, patch=self.patch)

    def apply(self, images: Images) -> Images:
        return self.apply_surrogate(images).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        height, width = images.shape[2:]
        reach, rim = self.window // 2, self.patch // 2
        padded = pad_border(images, reach + rim)
        own = pad_border(images, rim)
        total, weights = torch.zeros_like(images), torch.zeros_like(images[:, :1])
        for row, column in product(range(self.window), repeat=2):
            other = padded[..., row : row + height + 2 * rim, column : column + width + 2 * rim]
            distance = (own - other).square().mean(dim=1, keepdim=True)
            weight = (-average_windows(distance, self.patch) / self.strength**2).exp()
            total = total + weight * other[..., rim : rim + height, rim : rim + width]
            weights = weights + weight
        return total / weights
