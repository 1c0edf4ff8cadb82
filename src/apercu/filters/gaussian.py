"""Gaussian blur of each channel."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import final

import torch
import torch.nn.functional as F

from apercu.filters.base import Filter, pad_border
from apercu.filters.checks import check_between
from apercu.types import Images


@final
@dataclass(frozen=True)
class Gaussian(Filter):
    """Blurs each channel by itself, with repeated borders; the surrogate is the blur itself.

    Args:
        sigma: standard deviation in pixels, 0.001 to 100; the kernel ends at three of them.

    Raises:
        ConfigError: a setting is out of range.
    """

    sigma: float = 1.0

    def __post_init__(self) -> None:
        check_between("gaussian", 1e-3, 100.0, sigma=self.sigma)

    def apply(self, images: Images) -> Images:
        return blur(images, self.sigma).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        return blur(images, self.sigma)


def blur(images: Images, sigma: float) -> Images:
    """Convolve images with a Gaussian of `sigma` pixels, rows first, then columns."""
    reach = ceil(3 * sigma)
    offsets = torch.arange(-reach, reach + 1).to(images)
    kernel = torch.softmax(-0.5 * (offsets / sigma) ** 2, dim=0)
    planes = pad_border(images, reach).flatten(0, 1)[:, None]
    across = F.conv2d(planes, kernel.view(1, 1, 1, -1))
    return F.conv2d(across, kernel.view(1, 1, -1, 1)).view(images.shape)
