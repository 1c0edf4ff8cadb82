"""Evidence spread over positions that look alike to the encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

WALK = 3  # steps of the random walk
GRID = 14  # least number of rows of the map that the walk is taken on


def grouped(gate: Tensor, features: Tensor) -> Tensor:
    """Half the gate itself, half the gate after a random walk among alike positions.

    A class activation is high where a class is told from others, the head of a bird more than its
    wings. Features know what else belongs to the bird. Each step of the walk replaces a position's
    value by the mean over all positions, weighed by the cosine of their centred features (negative
    ones count as 0), as the segmentations of TokenCut (Wang et al. 2022) and of deep descriptor
    transforming (Wei et al. 2017) rest on. The result is stretched back to the gate's range.

    Args:
        gate: `batch × 1 × rows × columns`, at any resolution.
        features: `batch × channels × height × width`, at most a few hundred positions.

    Returns:
        `batch × 1 × height × width`.
    """
    size = features.shape[2:]
    start = F.interpolate(gate, tuple(size), mode="bilinear", align_corners=False)
    centred = features - features.mean((2, 3), keepdim=True)
    alike = F.normalize(centred.flatten(2), dim=1)
    weights = (alike.transpose(1, 2) @ alike).clamp(min=0)
    weights = weights / weights.sum(2, keepdim=True).clamp(min=1e-6)
    values = start.flatten(2).transpose(1, 2)
    for _ in range(WALK):
        values = weights @ values
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    walked = (values - low) / (high - low).clamp(min=1e-6) * start.amax((2, 3))[:, :, None]
    return (start + walked.reshape(start.shape)) / 2


def walking_ground(features: Sequence[Tensor]) -> Tensor:
    """Of an encoder's feature maps, finest first, the coarsest with at least `GRID` rows.

    Where it has more than one and a half times as many it is averaged down, so that the walk stays
    cheap. An encoder whose finest map has fewer rows gives that one.
    """
    fine = [map for map in features if min(map.shape[2:]) >= GRID] or [features[0]]
    ground = fine[-1]
    factor = max(1, round(min(ground.shape[2:]) / GRID))
    return F.avg_pool2d(ground, factor) if factor > 1 else ground
