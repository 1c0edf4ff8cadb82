"""How much of the image a map claims."""

from __future__ import annotations

from apercu.types import Maps, Scores


def mean_area(maps: Maps) -> Scores:
    """The mean of each map: for a mask, the share of the image that it keeps."""
    return maps.mean(dim=(1, 2))
