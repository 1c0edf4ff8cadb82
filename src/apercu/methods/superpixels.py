"""SLIC on tensors: an image in fragments of like colour (Achanta et al. 2012)."""

from __future__ import annotations

from math import sqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from apercu.removal import Blur
from apercu.types import Picture

ITERATIONS = 10
"""The number of k-means steps; more of them change almost nothing."""


def compute_superpixels(
    picture: Picture, count: int, compactness: float = 10.0, sigma: float = 1.0
) -> Int[Tensor, "height width"]:
    """Divide an image into superpixels with the numbers 0, 1, …; each of them is connected.

    Superpixels start as a grid and move by k-means over colour (CIELAB for three channels) and
    position. A pixel chooses among the nine superpixels around it.

    Args:
        picture: an image in [0, 1], `channels × height × width`, any number of channels.
        count: the approximate number of superpixels.
        compactness: the weight of the distance in position against that in colour.
        sigma: the standard deviation of the blur before, in pixels.

    Returns:
        The number of each pixel's superpixel, `height × width`.
    """
    height, width = picture.shape[1:]
    step = sqrt(height * width / count)
    rows, columns = (max(1, round(length / step)) for length in (height, width))
    blurred = Blur(sigma / min(height, width)).make_replacement(picture[None])[0]
    down, across = (torch.arange(length).to(picture) for length in (height, width))
    places = torch.stack(torch.meshgrid(down, across, indexing="ij")) / step
    features = torch.cat((_convert_to_lab(blurred) / compactness, places)).flatten(1).T
    near = _find_neighbour_cells((height, width), (rows, columns)).to(picture.device)
    labels = near[4]
    for _ in range(ITERATIONS):
        labels = _assign_pixels(features, _compute_centres(features, labels, rows * columns), near)
    return _connect_superpixels(labels.view(height, width))


def _convert_to_lab(picture: Picture) -> Float[Tensor, "channels height width"]:
    """Return CIELAB under D65 for three channels; otherwise the values on the range of L*."""
    if len(picture) != 3:
        return 100 * picture
    low = picture <= 0.04045
    linear = torch.where(low, picture / 12.92, ((picture.clamp(min=0) + 0.055) / 1.055) ** 2.4)
    to_xyz = picture.new_tensor(
        [
            [0.412453, 0.357580, 0.180423],
            [0.212671, 0.715160, 0.072169],
            [0.019334, 0.119193, 0.950227],
        ]
    )
    white = picture.new_tensor([0.95047, 1.0, 1.08883])
    xyz = torch.einsum("oc,chw->ohw", to_xyz / white[:, None], linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=1e-6) ** (1 / 3), 7.787 * xyz + 16 / 116)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)))


def _find_neighbour_cells(
    size: tuple[int, int], grid: tuple[int, int]
) -> Int[Tensor, "nine pixels"]:
    """Return the grid cells around each pixel's own, which is the fifth; −1 is outside."""
    own = [torch.arange(n) * cells // n for n, cells in zip(size, grid, strict=True)]
    neighbours = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            row, column = own[0][:, None] + down, own[1] + across
            inside = (row >= 0) & (row < grid[0]) & (column >= 0) & (column < grid[1])
            neighbours.append(torch.where(inside, row * grid[1] + column, -1).flatten())
    return torch.stack(neighbours)


def _compute_centres(features: Tensor, labels: Tensor, count: int) -> Tensor:
    """Return the mean features of each superpixel.

    Sums are in float64 on the CPU, where their order makes no difference.
    """
    labels, values = labels.cpu(), features.cpu().double()
    sums = torch.zeros(count, features.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, values)
    sizes = labels.bincount(minlength=count).clamp(min=1)
    return (sums / sizes[:, None]).to(features)


def _assign_pixels(features: Tensor, centres: Tensor, near: Tensor) -> Tensor:
    """Return the nearest of the neighbouring superpixels, for each pixel."""
    distances = (features - centres[near]).square().sum(dim=2)
    return near.gather(0, distances.where(near >= 0, torch.inf).argmin(dim=0)[None])[0]


def _connect_superpixels(labels: Int[Tensor, "height width"]) -> Int[Tensor, "height width"]:
    """Keep the largest piece of each superpixel; the other pieces join their neighbours."""
    pieces = _label_pieces(labels).flatten()
    flat, pixels = labels.flatten(), labels.numel()
    rank = pieces.bincount(minlength=pixels)[pieces] * pixels + pieces
    best = flat.new_zeros(int(flat.max()) + 1).scatter_reduce(0, flat, rank, "amax")
    labels = flat.where(rank == best[flat], -1).view_as(labels)
    while (labels < 0).any():
        labels = labels.where(labels >= 0, _stack_neighbours(labels).amax(dim=0))
    return torch.unique(labels, return_inverse=True)[1]


def _label_pieces(labels: Int[Tensor, "height width"]) -> Int[Tensor, "height width"]:
    """Return the largest pixel number in each connected piece."""
    numbers = torch.arange(labels.numel(), device=labels.device).view_as(labels)
    is_same = _stack_neighbours(labels) == labels
    while True:
        spread = torch.maximum(numbers, _stack_neighbours(numbers).where(is_same, -1).amax(dim=0))
        spread = spread.flatten()[spread]
        if torch.equal(spread, numbers):
            return spread
        numbers = spread


def _stack_neighbours(values: Int[Tensor, "height width"]) -> Int[Tensor, "four height width"]:
    """Return the values above, below, left and right of each pixel; −1 outside the image."""
    padded = F.pad(values, (1, 1, 1, 1), value=-1)
    inner = slice(1, -1)
    return torch.stack(
        (padded[:-2, inner], padded[2:, inner], padded[inner, :-2], padded[inner, 2:])
    )
