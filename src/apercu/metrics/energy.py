"""The energy-based pointing game (Wang et al. 2020, Score-CAM): how much evidence is inside?"""

from __future__ import annotations

import torch

from apercu.metrics.pointing import Truths, true_regions
from apercu.types import Maps, Scores


def energy(maps: Maps, truths: Truths) -> Scores:
    """The share of a map's positive mass that lies on the object; higher is better.

    A constant positive map scores the object's share of the image. An image without truth and a
    map without positive values score 0.
    """
    inside = true_regions(truths, (maps.shape[1], maps.shape[2]))
    peak = maps.amax(dim=(1, 2), keepdim=True)
    mass = torch.where(maps > 0, maps / peak.where(peak > 0, 1), 0)  # no sum can overflow
    total = mass.sum(dim=(1, 2))
    return (mass * inside).sum(dim=(1, 2)) / total.where(total > 0, 1)
