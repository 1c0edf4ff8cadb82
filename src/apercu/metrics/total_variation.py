"""How rough a map is: the l1 average total variation of SmoothTaylor (Goh et al. 2020)."""

from __future__ import annotations

import torch

from apercu.types import Maps, Scores

FULL_STRENGTH = 0.99
"""Share of the pixels that are at most as strong as what counts as full strength."""


def total_variation(maps: Maps) -> Scores:
    """Absolute differences of neighbours across and down, summed, per pixel; lower is smoother.

    Of the map's absolute values, clipped at their 99th percentile (at their highest where that is
    0) and divided by it; the first scale only of the paper's pyramid. A constant map scores 0.
    """
    sizes = maps.abs()
    full = sizes.flatten(1).quantile(FULL_STRENGTH, dim=1)
    full = torch.where(full > 0, full, sizes.amax(dim=(1, 2)))[:, None, None]
    stretched = (sizes / torch.where(full > 0, full, 1)).clamp(max=1)
    across = stretched.diff(dim=2).abs().sum(dim=(1, 2))
    down = stretched.diff(dim=1).abs().sum(dim=(1, 2))
    return (across + down) / maps[0].numel()
