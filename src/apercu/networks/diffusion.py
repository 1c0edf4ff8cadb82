"""Diffusion of class evidence over positions whose features are similar."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

DIFFUSION_STEPS = 3
"""Steps of the random walk."""

MIN_ROWS = 14
"""Smallest number of rows of the feature map on which the walk is done."""


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
    coarse = _resize_like(maps, features)
    values = coarse.flatten(2).transpose(1, 2)
    weights = _compute_affinity(features)
    for _ in range(DIFFUSION_STEPS):
        values = weights @ values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    diffused = (values - low) / (high - low).clamp(min=1e-6) * coarse.amax((2, 3))[:, None]
    diffused = diffused.transpose(1, 2).reshape(coarse.shape)
    if maps.shape[2] < features.shape[2]:
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
    coarsest = candidates[-1]
    factor = max(1, round(min(coarsest.shape[2:]) / MIN_ROWS))
    return F.avg_pool2d(coarsest, factor) if factor > 1 else coarsest


def _compute_affinity(features: Tensor) -> Tensor:
    """Return how similar two positions are, rows that sum to 1, `batch × positions × positions`."""
    centred = features - features.mean((2, 3), keepdim=True)
    directions = F.normalize(centred.flatten(2).transpose(1, 2), dim=2)
    cosines = (directions @ directions.transpose(1, 2)).clamp(min=0)
    return cosines / cosines.sum(2, keepdim=True).clamp(min=1e-6)


def _resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """Resize maps to the size of another tensor: means of cells if smaller, bilinear if larger."""
    size = (like.shape[2], like.shape[3])
    if maps.shape[2] > size[0]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
