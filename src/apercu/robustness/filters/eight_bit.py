"""Pixels as the whole numbers that files hold."""

from __future__ import annotations

import torch
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
