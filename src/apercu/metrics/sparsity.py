"""How much of the image a map claims."""

from __future__ import annotations

import torch

from apercu.maps import min_max_scale
from apercu.types import Maps, Scores


def mean_area(maps: Maps) -> Scores:
    """The mean of each map: for a mask, the share of the image that it keeps."""
    return maps.mean(dim=(1, 2))


def sparsity(maps: Maps) -> Scores:
    """Maximum over mean of the map stretched to [0, 1], at least 1; higher is more focused.

    One pixel alone scores the number of pixels; a constant map scores 1.
    """
    mean = min_max_scale(maps).mean(dim=(1, 2))
    return torch.where(mean > 0, 1 / mean.where(mean > 0, 1), 1)
