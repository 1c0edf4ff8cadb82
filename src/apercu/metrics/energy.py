"""Energy: the fraction of the evidence that lies on the object (Wang et al. 2020, Score-CAM)."""

from __future__ import annotations

import torch

from apercu.metrics.pointing import Truths, true_regions
from apercu.metrics.record import Metric
from apercu.types import Maps, Scores


def energy(maps: Maps, truths: Truths) -> Scores:
    """Return the fraction of a map's positive mass that lies on the object; higher is better.

    A constant positive map scores the object's fraction of the image. An image without truth and
    a map without positive values score 0.
    """
    inside = true_regions(truths, (maps.shape[1], maps.shape[2]))
    peak = maps.amax(dim=(1, 2), keepdim=True)
    mass = torch.where(maps > 0, maps / peak.where(peak > 0, 1), 0)  # so that no sum overflows
    total = mass.sum(dim=(1, 2))
    return (mass * inside).sum(dim=(1, 2)) / total.where(total > 0, 1)


ENERGY = Metric(
    name="energy",
    function=energy,
    takes=("maps", "objects"),
    better="higher",
    title="Energy",
    phrase="energy",
    meaning="fraction of the evidence that lies on the object",
)
