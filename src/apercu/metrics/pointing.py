"""The pointing game (Zhang et al. 2018): is the highest pixel of the map on the object?"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.maps import fill_boxes
from apercu.metrics.record import Metric
from apercu.types import Maps, Regions, Scores

Truths: TypeAlias = Regions | Float[Tensor, "batch truths 4"]
"""True masks, or true boxes; images with fewer boxes than others are filled up with empty ones."""


def pointing_game(maps: Maps, truths: Truths, tolerance: int = 0) -> Scores:
    """Return 1 where the highest pixel of a map lies on the object, else 0; higher is better.

    A peak within `tolerance` pixels of the object counts (Zhang et al. allow 15 on photographs).
    Equal peaks count by the fraction of them that hits, so a constant map scores the object's
    fraction of the image. An image without truth scores 0.

    Args:
        maps: maps, `batch × height × width`.
        truths: true masks, `batch × height × width`, or true boxes, `batch × truths × 4` pixels.
        tolerance: pixels.

    Returns:
        One score per image.
    """
    objects = _widen_regions(true_regions(truths, (maps.shape[1], maps.shape[2])), tolerance)
    peaks = maps == maps.amax(dim=(1, 2), keepdim=True)
    return (peaks & objects).sum(dim=(1, 2)) / peaks.sum(dim=(1, 2))


def true_regions(truths: Truths, size: tuple[int, int]) -> Regions:
    """Return the true pixels of an image of (height, width).

    Masks are returned as they are; of boxes, every pixel that one of them touches is true.
    """
    if truths.dtype == torch.bool:
        return truths
    inside = fill_boxes(truths.flatten(0, 1), size)
    return inside.view(*truths.shape[:2], *size).any(dim=1)


def _widen_regions(regions: Regions, radius: int) -> Regions:
    """Return all pixels whose centre is at most `radius` from the centre of a pixel of the region.

    The disc is added row by row, each row as a difference of running counts.
    """
    if not radius:
        return regions
    height, width = regions.shape[1:]
    counts = F.pad(regions.int().cumsum(dim=2), (1, 0))
    columns = torch.arange(width, device=regions.device)
    wide = torch.zeros_like(regions)
    for down in range(-min(radius, height - 1), min(radius, height - 1) + 1):
        half = int((radius**2 - down**2) ** 0.5)
        left, right = (columns - half).clamp(min=0), (columns + half + 1).clamp(max=width)
        near = counts[:, :, right] > counts[:, :, left]
        first, last = max(0, down), height + min(0, down)
        wide[:, first:last] |= near[:, first - down : last - down]
    return wide


POINTING_GAME = Metric(
    name="pointing_game",
    function=pointing_game,
    takes=("maps", "objects"),
    better="higher",
    title="Pointing game",
    phrase="the pointing game",
    meaning="fraction of the images whose strongest pixel lies on the object",
)


def pointing_game_15(maps: Maps, truths: Truths) -> Scores:
    """Return `pointing_game` with the tolerance of TorchRay, 15 pixels; higher is better."""
    return pointing_game(maps, truths, tolerance=15)


POINTING_GAME_15 = Metric(
    name="pointing_game_15",
    function=pointing_game_15,
    takes=("maps", "objects"),
    better="higher",
    title="Pointing game, 15",
    phrase="the pointing game of TorchRay",
    meaning="fraction of the images whose strongest pixel is within 15 pixels of the object",
    by_name_only=True,
)
