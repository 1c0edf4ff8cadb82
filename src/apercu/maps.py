"""Maps, regions and boxes: resize, threshold, find the tight box, fill a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Boxes, Maps, Regions


def resize_maps(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch rows columns"]:
    """Resize maps bilinearly; pixel centres, not corners, are aligned.

    Args:
        maps: Maps, `batch × height × width`.
        size: The new (height, width) in pixels.

    Returns:
        Maps, `batch × rows × columns`.

    >>> resize_maps(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def find_regions(maps: Maps, threshold: float) -> Regions:
    """Return True where a map is at least the threshold, `batch × height × width`."""
    return maps >= threshold


def tight_boxes(regions: Regions) -> Boxes:
    """Return the tight box of each region, `batch × 4` in pixels; zeros for an empty region.

    >>> region = torch.zeros(1, 5, 5, dtype=torch.bool)
    >>> region[0, 1, 2:4] = True
    >>> tight_boxes(region)
    tensor([[2., 1., 4., 2.]])
    """
    left, right = _find_extent(regions.any(dim=1))
    top, bottom = _find_extent(regions.any(dim=2))
    return torch.stack((left, top, right, bottom), dim=1).float()


def fill_boxes(boxes: Boxes, size: tuple[int, int]) -> Regions:
    """Return the pixels that each box touches; none for an empty box.

    Args:
        boxes: Boxes in pixels, `batch × 4`.
        size: The (height, width) of the image in pixels.

    Returns:
        Regions, `batch × height × width`.
    """
    height, width = size
    left, top, right, bottom = boxes[:, :, None].unbind(dim=1)
    x, y = torch.arange(width).to(boxes), torch.arange(height).to(boxes)
    across, down = (x + 1 > left) & (x < right), (y + 1 > top) & (y < bottom)
    return down[:, :, None] & across[:, None, :]


def min_max_scale(maps: Maps) -> Maps:
    """Scale each map by itself to [0, 1]; a constant map becomes zeros."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    flat = span == 0
    return torch.where(flat, torch.zeros_like(maps), (maps - low) / torch.where(flat, 1, span))


def _find_extent(occupied: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first and one past the last true index of each row; zeros if none is true."""
    length = occupied.shape[1]
    marks = occupied.to(torch.uint8)
    first, last = marks.argmax(dim=1), length - marks.flip(1).argmax(dim=1)
    filled = occupied.any(dim=1)
    return first * filled, last * filled
