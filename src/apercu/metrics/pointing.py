"""The pointing game (Zhang et al. 2018): is the highest pixel of the map on the object?"""

from __future__ import annotations

from typing import TypeAlias

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.maps import fill_boxes
from apercu.metrics.record import Metric
from apercu.types import Maps, Regions, Scores

Sizes: TypeAlias = Int[Tensor, "batch 2"]
"""Heights and widths of pictures in pixels."""
Truths: TypeAlias = Regions | Float[Tensor, "batch truths 4"]
"""True masks, or true boxes; images with fewer boxes than others are filled up with empty ones."""


def pointing_game(
    maps: Maps, truths: Truths, tolerance: int = 0, sizes: Sizes | None = None
) -> Scores:
    """Return 1 where the highest pixel of a map lies on the object, else 0; higher is better.

    With a tolerance, a peak less than so many pixels from a pixel of the object counts, too
    (Zhang et al. allow 15 on photographs). Equal peaks count by the fraction of them that hits, so
    a constant map scores the object's fraction of the image. An image without truth scores 0.

    >>> maps, truths = torch.zeros(1, 4, 8), torch.zeros(1, 4, 8, dtype=torch.bool)
    >>> maps[0, 1, 6] = 1
    >>> truths[0, 1, 3] = True
    >>> pointing_game(maps, truths, tolerance=4), pointing_game(maps, truths, tolerance=3)
    (tensor([1.]), tensor([0.]))
    >>> pointing_game(maps, truths, tolerance=4, sizes=torch.tensor([[4, 16]]))  # 6 pixels there
    tensor([0.])

    Args:
        maps: maps, `batch × height × width`.
        truths: true masks, `batch × height × width`, or true boxes, `batch × truths × 4` pixels.
        tolerance: pixels of the stored pictures.
        sizes: height and width of the stored pictures, `batch × 2`; None if they were as large as
            the maps.

    Returns:
        One score per image.
    """
    objects = true_regions(truths, (maps.shape[1], maps.shape[2]))
    if tolerance:
        if sizes is None:
            sizes = torch.tensor(maps.shape[1:]).expand(len(maps), 2)
        objects = _widen_regions(objects, tolerance, sizes.to(objects.device))
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


def _widen_regions(regions: Regions, radius: int, sizes: Sizes) -> Regions:
    """Return all pixels whose centre is nearer than `radius` to the centre of a pixel of a region.

    Distances are those in the stored pictures, where pixels are wider and higher. They are compared
    in whole numbers, so that a distance of exactly the radius is told from a smaller one.
    """
    height, width = regions.shape[1:]
    across = (_find_distances(regions) * height * sizes[:, None, 1:]) ** 2
    across.masked_fill_(~regions.any(dim=2, keepdim=True), torch.iinfo(across.dtype).max)
    limit = (radius * height * width) ** 2
    wide = torch.zeros_like(regions)
    for step in range(height):
        within = limit - (step * width * sizes[:, 0]) ** 2
        if (within <= 0).all():
            break
        near = across < within[:, None, None]
        wide[:, step:] |= near[:, : height - step]
        wide[:, : height - step] |= near[:, step:]
    return wide


def _find_distances(regions: Regions) -> Int[Tensor, "batch height width"]:
    """Return how far the nearest pixel of a region is in the same row; too far where none is."""
    width = regions.shape[2]
    columns = torch.arange(width, device=regions.device).expand_as(regions)
    last = columns.where(regions, -width).cummax(dim=2).values
    mirrored = columns.where(regions.flip(2), -width).cummax(dim=2).values
    return torch.minimum(columns - last, (columns - mirrored).flip(2))


POINTING_GAME = Metric(
    name="pointing_game",
    function=pointing_game,
    takes=("maps", "objects"),
    better="higher",
    title="Pointing game",
    phrase="the pointing game",
    meaning="fraction of the images whose strongest pixel lies on the object",
)


def pointing_game_15(maps: Maps, truths: Truths, sizes: Sizes) -> Scores:
    """Return `pointing_game` with the tolerance of TorchRay, 15 pixels; higher is better.

    Args:
        maps: maps, `batch × height × width`.
        truths: true masks, `batch × height × width`, or true boxes, `batch × truths × 4` pixels.
        sizes: height and width of the stored pictures, whose pixels are counted, `batch × 2`.

    Returns:
        One score per image.
    """
    return pointing_game(maps, truths, 15, sizes)


POINTING_GAME_15 = Metric(
    name="pointing_game_15",
    function=pointing_game_15,
    takes=("maps", "objects", "sizes"),
    better="higher",
    title="Pointing game, 15",
    phrase="the pointing game of TorchRay",
    meaning="images whose strongest pixel is less than 15 pixels of the picture from the object",
    by_name_only=True,
)
