"""How rough a map is: the l1 average total variation of SmoothTaylor (Goh et al. 2020)."""

from __future__ import annotations

from apercu.maps import min_max
from apercu.types import Maps, Scores


def total_variation(maps: Maps) -> Scores:
    """Absolute differences of neighbours across and down, summed, per pixel; lower is smoother.

    Of the map stretched to [0, 1], at its own resolution only (no pyramid). A constant map
    scores 0.
    """
    stretched = min_max(maps)
    across = stretched.diff(dim=2).abs().sum(dim=(1, 2))
    down = stretched.diff(dim=1).abs().sum(dim=(1, 2))
    return (across + down) / maps[0].numel()
