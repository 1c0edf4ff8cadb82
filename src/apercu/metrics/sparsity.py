"""Sparsity: how focused a map is (Gomez et al. 2022), and how much of the image it covers."""

from __future__ import annotations

import torch

from apercu.maps import min_max_scale
from apercu.metrics.record import Metric
from apercu.statistics import divide_or
from apercu.types import Maps, Scores


def mean_area(maps: Maps) -> Scores:
    """Return the mean of each map: for a mask, the fraction of the image that it keeps."""
    return maps.mean(dim=(1, 2))


def sparsity(maps: Maps) -> Scores:
    """Return the maximum over the mean of each map stretched to [0, 1]; higher is more focused.

    It is at least 1. A single bright pixel scores the number of pixels; a constant map scores 1.
    """
    mean = min_max_scale(maps).mean(dim=(1, 2))
    return divide_or(torch.ones_like(mean), mean, otherwise=1.0)


SPARSITY = Metric(
    name="sparsity",
    function=sparsity,
    takes=("maps",),
    better="higher",
    title="Sparsity",
    phrase="sparsity",
    meaning="highest value of the map, as a multiple of its mean",
    decimals=1,
)
