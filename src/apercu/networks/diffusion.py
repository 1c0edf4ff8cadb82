"""Evidence spread over positions that look alike to the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

DIFFUSION_STEPS = 3  # steps of the random walk
MIN_ROWS = 14  # least number of rows of the map that the walk is taken on


def diffuse(maps: Tensor, features: Tensor) -> Tensor:
    """Half the maps themselves, half the maps after a random walk among alike positions.

    A class activation is high where a class is told from others, the head of a bird more than its
    wings. Features know what else belongs to the bird. Each step of the walk replaces a position's
    value by the mean over all positions, weighed by the cosine of their centred features (negative
    ones count as 0): the affinity that TokenCut (Wang et al. 2022) cuts and whose first component
    deep descriptor transforming (Wei et al. 2017) takes. The result is stretched back to the
    range of the maps.

    Args:
        maps: any number per image, `batch × maps × rows × columns`, not negative.
        ground: features to walk on, `batch × channels × height × width`, at most a few hundred
            positions.

    Returns:
        As large as the finer of the two.
    """
    coarse = _resize_like(maps, features)
    values = coarse.flatten(2).transpose(1, 2)
    weights = _compute_affinity(features)
    for _ in range(DIFFUSION_STEPS):
        values = weights @ values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    walked = (values - low) / (high - low).clamp(min=1e-6) * coarse.amax((2, 3))[:, None]
    walked = walked.transpose(1, 2).reshape(coarse.shape)
    if maps.shape[2] < features.shape[2]:
        return (coarse + walked) / 2
    return (maps + _resize_like(walked, maps)) / 2


def _compute_affinity(features: Tensor) -> Tensor:
    """How alike every two positions are, each row summing to 1, `batch × places × places`."""
    centred = features - features.mean((2, 3), keepdim=True)
    directions = F.normalize(centred.flatten(2).transpose(1, 2), dim=2)
    alike = (directions @ directions.transpose(1, 2)).clamp(min=0)
    return alike / alike.sum(2, keepdim=True).clamp(min=1e-6)


def _resize_like(maps: Tensor, like: Tensor) -> Tensor:
    """At the size of another tensor: means of cells when smaller, bilinear when larger."""
    size = (like.shape[2], like.shape[3])
    if maps.shape[2] > size[0]:
        return F.interpolate(maps, size, mode="area")
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def affinity_features(features: Sequence[Tensor]) -> Tensor:
    """Of an encoder's feature maps, finest first, the coarsest with at least `GRID` rows.

    Where it has more than one and a half times as many it is averaged down, so that the walk stays
    cheap. An encoder whose finest map has fewer rows gives that one.
    """
    fine = [map for map in features if min(map.shape[2:]) >= MIN_ROWS] or [features[0]]
    ground = fine[-1]
    factor = max(1, round(min(ground.shape[2:]) / MIN_ROWS))
    return F.avg_pool2d(ground, factor) if factor > 1 else ground
