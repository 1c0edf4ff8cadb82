"""Neighbourhoods of every pixel; beyond the border the last pixel is repeated."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Images


def pad_border(images: Images, reach: int) -> Float[Tensor, "batch channels tall wide"]:
    """The images with their outermost pixels repeated `reach` times on all four sides."""
    return F.pad(images, (reach,) * 4, mode="replicate")


def extract_windows(
    images: Images, width: int
) -> Float[Tensor, "batch channels height width neighbours"]:
    """The square of odd `width` around every pixel, row by row."""
    wide = pad_border(images, width // 2)
    return wide.unfold(2, width, 1).unfold(3, width, 1).flatten(4)


def average_windows(images: Images, width: int) -> Float[Tensor, "batch channels low narrow"]:
    """Mean of the square of odd `width` around every pixel that has a whole one."""
    return F.avg_pool2d(images, width, stride=1)
