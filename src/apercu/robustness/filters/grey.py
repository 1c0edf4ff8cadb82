"""One channel out of many."""

from __future__ import annotations

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from apercu.types import Images

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
