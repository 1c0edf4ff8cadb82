"""From maps to regions to boxes: resize, threshold, tightest box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Boxes, Maps, Regions


def resize_maps(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch rows columns"]:
    """Bilinear resize to (height, width); pixel centres, not corners, are aligned.

    >>> resize(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def find_regions(maps: Maps, threshold: float) -> Regions:
    """Where the evidence is at least the threshold."""
    return maps >= threshold


def tight_boxes(regions: Regions) -> Boxes:
    """The tightest box around all that is in each region, all zeros for an empty region.

    >>> region = torch.zeros(1, 5, 5, dtype=torch.bool)
    >>> region[0, 1, 2:4] = True
    >>> boxes(region)
    tensor([[2., 1., 4., 2.]])
    """
    left, right = _extent(regions.any(dim=1))
    top, bottom = _extent(regions.any(dim=2))
    return torch.stack((left, top, right, bottom), dim=1).float()


def fill_boxes(boxes: Boxes, size: tuple[int, int]) -> Regions:
    """The pixels of a (height, width) image that each box touches; none for an empty box."""
    height, width = size
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    x, y = torch.arange(width).to(boxes), torch.arange(height).to(boxes)
    across, down = (x + 1 > left) & (x < right), (y + 1 > top) & (y < bottom)
    return down[:, :, None] & across[:, None, :]


def min_max_scale(maps: Maps) -> Maps:
    """Each map stretched to [0, 1] on its own; a constant map becomes zeros."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    flat = span == 0
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, 1, span))


def _extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """First and one past the last true place of each line, zeros for a line without any."""
    length = occupied.shape[1]
    marks = occupied.to(torch.uint8)
    first, last = marks.argmax(dim=1), length - marks.flip(1).argmax(dim=1)
    filled = occupied.any(dim=1)
    return first * filled, last * filled
