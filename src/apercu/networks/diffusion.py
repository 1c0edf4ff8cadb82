"""Maps spread over what looks alike, by a random walk; and the part of a map around its peak."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DIFFUSION_STEPS = 3
"""Steps of the random walk of `diffuse`."""
MIN_ROWS = 14
"""Smallest number of rows of the feature map on which the walk is done."""
FINE_ROWS = 28
"""Number of rows, or not many more, of the grid of `diffuse_finely`."""


def diffuse(maps: Tensor, features: Tensor) -> Tensor:
    """Return the mean of the maps and the same maps after a random walk among similar positions.

    A class activation is high where a class differs from others: on the head of a bird more than
    on its wings. The features show what else belongs to the bird. Each step of the walk replaces
    the value at a position by the mean over all positions, weighted by the cosine of their centred
    features (negative ones count as 0). TokenCut (Wang et al. 2022) cuts the same affinity, and
    deep descriptor transforming (Wei et al. 2017) takes its first component. The result is
    rescaled to the range of the maps.

    Args:
        maps: non-negative maps, any number per image, `batch × maps × rows × columns`.
        features: features that say which positions are similar, `batch × channels × height ×
            width`, with at most a few hundred positions.

    Returns:
        Diffused maps, as large as the finer of the two, `batch × maps × rows × columns`.
    """
    return _walk(maps, features, _compute_affinity(_compute_directions(features)))


def diffuse_finely(
    maps: Tensor, features: Sequence[Tensor]
) -> Float[Tensor, "batch maps rows columns"]:
    """Return what `diffuse` returns, with a walk on a finer grid and by several feature maps.

    The two coarsest feature maps with at least `MIN_ROWS` rows say together which positions are
    similar. The finer one keeps apart what is near, so that the walk does not connect objects
    that are side by side; see docs/experiments.md.

    Args:
        maps: non-negative maps, any number per image, `batch × maps × rows × columns`.
        features: feature maps of an encoder, finest first.

    Returns:
        Diffused maps, as large as the finer of maps and grid, `batch × maps × rows × columns`.
    """
    chosen = [each for each in features if min(each.shape[2:]) >= MIN_ROWS][-2:] or [features[0]]
    grid = _average_to_rows(chosen[0], FINE_ROWS)
    if (rows := min(grid.shape[2:])) > 1.2 * FINE_ROWS:
        size = [round(length * FINE_ROWS / rows) for length in grid.shape[2:]]
        grid = F.interpolate(grid, size, mode="bilinear", align_corners=False)
    parts = [_compute_directions(_resize_like(each, grid)) for each in chosen]
    return _walk(maps, grid, _compute_affinity(torch.cat(parts, 2) / len(parts) ** 0.5))


def _walk(maps: Tensor, grid: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of the maps and the same maps after the walk on a grid of positions."""
    coarse = _resize_like(maps, grid)
    values = coarse.flatten(2).transpose(1, 2)
    for _ in range(DIFFUSION_STEPS):
        values = weights @ values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    diffused = (values - low) / (high - low).clamp(min=1e-6) * coarse.amax((2, 3))[:, None]
    diffused = diffused.transpose(1, 2).reshape(coarse.shape)
    if maps.shape[2] < grid.shape[2]:
        return (coarse + diffused) / 2
    return (maps + _resize_like(diffused, maps)) / 2


def affinity_features(features: Sequence[Tensor]) -> Tensor:
    """Return the feature map for the diffusion: the coarsest with at least `MIN_ROWS` rows.

    If it has more than one and a half times as many rows, it is averaged down, so that the walk is
    cheap. If even the finest map has fewer rows, it is returned.

    Args:
        features: feature maps of an encoder, finest first.

    Returns:
        One feature map, `batch × channels × height × width`.
    """
    candidates = [map for map in features if min(map.shape[2:]) >= MIN_ROWS] or [features[0]]
    return _average_to_rows(candidates[-1], MIN_ROWS)


def connect_to_peak(
    maps: Float[Tensor, "batch maps rows columns"], order: Float[Tensor, "batch maps rows columns"]
) -> Float[Tensor, "batch maps rows columns"]:
    """Return for each position the highest level at which it is connected with the peak.

    The region of the result at a level is that part of the maps' region that holds the peak. Parts
    are connected along rows, columns and diagonals. A path may have as many steps as the longer
    side has positions; what is further away along every path counts as unconnected, and gets 0.

    Args:
        maps: non-negative maps.
        order: maps of the same shape, whose highest position is the peak.

    Returns:
        Maps of the same shape, nowhere above the given ones.
    """
    batch, count, rows, columns = maps.shape
    flat = order.reshape(batch, count, rows * columns)
    positions = torch.arange(rows * columns, device=maps.device)
    is_peak = (flat.argmax(2, keepdim=True) == positions).view(batch, count, rows, columns)
    level = torch.where(is_peak, maps, 0)
    for _ in range(max(rows, columns)):
        level = torch.minimum(maps, F.max_pool2d(level, 3, stride=1, padding=1))
    return level


def _average_to_rows(features: Tensor, rows: int) -> Tensor:
    """Average a feature map in cells, so that it has not many more rows than these."""
    factor = max(1, round(min(features.shape[2:]) / rows))
    return F.avg_pool2d(features, factor) if factor > 1 else features


def _compute_directions(features: Tensor) -> Tensor:
    """Return centred features of length 1, `batch × positions × channels`."""
    centred = features - features.mean((2, 3), keepdim=True)
    return F.normalize(centred.flatten(2).transpose(1, 2), dim=2)


def _compute_affinity(directions: Tensor) -> Tensor:
    """Return how similar two positions are, rows that sum to 1, `batch × positions × positions`."""
    cosines = (directions @ directions.transpose(1, 2)).clamp(min=0)
    return cosines / cosines.sum(2, keepdim=True).clamp(min=1e-6)


def _resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the size of another tensor: means of cells if smaller, bilinear if larger."""
    size = (like.shape[2], like.shape[3])
    if maps.shape[2] > size[0]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
