"""Total variation: how rough a map is, as in SmoothTaylor (Goh et al. 2020)."""

from __future__ import annotations

import torch

from apercu.metrics.record import Metric
from apercu.types import Maps, Scores

FULL_STRENGTH = 0.99
"""The quantile of a map's absolute values that counts as full strength."""


def total_variation(maps: Maps) -> Scores:
    """Return the absolute differences of neighbouring pixels, summed, per pixel; lower is smoother.

    The map's absolute values are divided by their 99th percentile (by their maximum where that is
    0) and clipped at 1. Of the paper's pyramid only the first scale is used. A constant map scores
    0.
    """
    sizes = maps.abs()
    full = sizes.flatten(1).quantile(FULL_STRENGTH, dim=1)
    full = torch.where(full > 0, full, sizes.amax(dim=(1, 2)))[:, None, None]
    stretched = (sizes / torch.where(full > 0, full, 1)).clamp(max=1)
    across = stretched.diff(dim=2).abs().sum(dim=(1, 2))
    down = stretched.diff(dim=1).abs().sum(dim=(1, 2))
    return (across + down) / maps[0].numel()


TOTAL_VARIATION = Metric(
    name="total_variation",
    function=total_variation,
    takes=("maps",),
    better="lower",
    title="Total variation",
    phrase="total variation",
    meaning="mean difference of neighbouring pixels, 0 to 1",
    decimals=4,
)
