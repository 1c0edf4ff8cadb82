"""Maps, regions and boxes: resize, threshold, find the tight box, fill a box."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Boxes, Maps, Regions

GRID_TOLERANCE = 1e-4
"""How far a map may be from one that was enlarged from a grid, as a fraction of its range."""
GRID_UNIT = 8
"""What the values of such a grid are rounded to, so that ties stay ties: a fraction of their range,
in units of the precision of the numbers (about one in a million of it for 32 bits)."""


def resize_maps(maps: Maps, size: tuple[int, int]) -> Float[Tensor, "batch rows columns"]:
    """Resize maps bilinearly; pixel centres, not corners, are aligned.

    Args:
        maps: maps, `batch × height × width`.
        size: the new (height, width) in pixels.

    Returns:
        Maps, `batch × rows × columns`.

    >>> resize_maps(torch.tensor([[[0.0, 1.0]]]), (1, 4))
    tensor([[[0.0000, 0.2500, 0.7500, 1.0000]]])
    """
    if maps.shape[-2:] == size:
        return maps
    return F.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def reduce_maps(maps: Maps, cells: int) -> Float[Tensor, "batch cells cells"]:
    """Return a map's value in each cell of a grid.

    A map that was enlarged bilinearly from such a grid, as CAM and Grad-CAM are, has the values of
    this grid. Any other map has the mean over the pixels of each cell; pixel p of L lies in cell
    p × cells // L, rounded down.

    >>> small = torch.tensor([[[0.0, 1.0], [3.0, 2.0]]])
    >>> reduce_maps(resize_maps(small, (8, 6)), 2).round(decimals=4)
    tensor([[[0., 1.],
             [3., 2.]]])
    >>> reduce_maps(torch.eye(4)[None], 2)
    tensor([[[0.5000, 0.0000],
             [0.0000, 0.5000]]])

    Args:
        maps: maps, `batch × height × width`.
        cells: the number of cells per side, at most one per pixel.

    Returns:
        Values, `batch × cells × cells`.
    """
    exact, size = maps.cpu().double(), (maps.shape[1], maps.shape[2])
    averages, inverses = [], []
    for length in size:
        cell = torch.arange(length) * cells // length
        inside = (cell == torch.arange(cells)[:, None]).double()
        averages.append(inside / inside.sum(dim=1, keepdim=True))
        enlarged = F.interpolate(
            torch.eye(cells, dtype=torch.float64)[None], size=length, mode="linear"
        )
        inverses.append(torch.linalg.pinv(enlarged[0].T))
    means = averages[0] @ exact @ averages[1].T
    grid = inverses[0] @ exact @ inverses[1].T
    low = grid.amin(dim=(1, 2), keepdim=True)
    span = grid.amax(dim=(1, 2), keepdim=True) - low
    error = (resize_maps(grid, size) - exact).abs().amax(dim=(1, 2), keepdim=True)
    unit = GRID_UNIT * torch.finfo(maps.dtype).eps * torch.where(span > 0, span, 1)
    grid = low + ((grid - low) / unit).round() * unit
    return torch.where(error <= GRID_TOLERANCE * span, grid, means).to(maps)


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
        boxes: boxes in pixels, `batch × 4`.
        size: the (height, width) of the image in pixels.

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
