"""Normalised cross-correlation of map and truth, as Charachon et al. (2021) measure it."""

from __future__ import annotations

from apercu.metrics.pointing import Truths, true_regions
from apercu.metrics.record import Metric
from apercu.statistics import correlate_rows
from apercu.types import Maps, Scores


def ncc(maps: Maps, truths: Truths) -> Scores:
    """Return the mean product of the standardised map and truth, −1 to 1; higher is better.

    A constant map, and a truth that is empty or the whole image, score 0.
    """
    objects = true_regions(truths, (maps.shape[1], maps.shape[2]))
    return correlate_rows(maps.flatten(1), objects.flatten(1).to(maps.dtype))


NCC = Metric(
    name="ncc",
    function=ncc,
    takes=("maps", "objects"),
    better="higher",
    title="NCC",
    phrase="NCC",
    meaning="correlation of the map with the object, −1 to 1",
)
