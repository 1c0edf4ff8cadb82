"""Pixels as the whole numbers that files hold."""

from __future__ import annotations

from math import tanh

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from apercu.types import Images


def to_bytes(images: Float[Tensor, "*shape"]) -> UInt8[Tensor, "*shape"]:
    """The nearest of 0, 1 / 255, … 1 to each pixel, as a byte.

    >>> eight_bit(torch.tensor([0.0, 0.5, 1.0])).tolist()
    [0, 128, 255]
    """
    return images.detach().float().mul(255).round_().clamp_(0, 255).to(torch.uint8)


def from_bytes(pixels: UInt8[Tensor, "batch channels height width"], like: Images) -> Images:
    """Back to [0, 1], with the device and type of the images that they were."""
    return (pixels / 255).to(like)


SHARPNESS = 5.0
"""Of the steps: the slope is 2.5 on an edge and 0.07 on a tread, so that it never vanishes."""


def round_softly(values: Tensor) -> Tensor:
    """A staircase of tanh steps through every whole number (Agustsson & Theis 2020).

    >>> import torch
    >>> soft_round(torch.tensor([0.0, 0.5, 1.0, 2.0])).tolist()
    [0.0, 0.5, 1.0, 2.0]
    """
    below = values.floor()
    within = (SHARPNESS * (values - below - 0.5)).tanh() / tanh(SHARPNESS / 2)
    return below + 0.5 + 0.5 * within


LUMA_WEIGHTS = (0.299, 0.587, 0.114)
"""Of RGB (ITU-R BT.601)."""
LUMA_BYTES = (19595, 38470, 7471)
"""The same in 65536ths, as Pillow's mode L has it."""


def convert_to_grey(images: Images) -> Float[Tensor, "batch 1 height width"]:
    """Luma of three channels, the mean of any other number."""
    if images.shape[1] != 3:
        return images.mean(dim=1, keepdim=True)
    weights = torch.tensor(LUMA_WEIGHTS).to(images)
    return (images * weights.view(3, 1, 1)).sum(dim=1, keepdim=True)


def convert_bytes_to_grey(
    pixels: UInt8[Tensor, "batch channels height width"],
) -> UInt8[Tensor, "batch 1 height width"]:
    """The same of bytes, rounded to such; three channels as Pillow does."""
    if pixels.shape[1] != 3:
        return pixels.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
    weights = torch.tensor(LUMA_BYTES).view(3, 1, 1)
    sums = (pixels.int() * weights).sum(dim=1, keepdim=True)
    return ((sums + 2**15) // 2**16).to(torch.uint8)


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
