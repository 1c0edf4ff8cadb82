"""How focused a map is (Gomez et al. 2022)."""

from __future__ import annotations

import torch

from apercu.maps import min_max_scale
from apercu.types import Maps, Scores


def sparsity(maps: Maps) -> Scores:
    """Maximum over mean of the map stretched to [0, 1], at least 1; higher is more focused.

    One pixel alone scores the number of pixels; a constant map scores 1.
    """
    mean = min_max_scale(maps).mean(dim=(1, 2))
    return torch.where(mean > 0, 1 / mean.where(mean > 0, 1), 1)
