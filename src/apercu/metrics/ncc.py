"""Normalised cross-correlation of map and truth, as Charachon et al. (2021) measure it."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.maps import min_max_scale
from apercu.metrics.pointing import Truths, true_regions
from apercu.metrics.record import Metric
from apercu.types import Maps, Scores


def ncc(maps: Maps, truths: Truths) -> Scores:
    """Return the mean product of the standardised map and truth, −1 to 1; higher is better.

    A constant map, and a truth that is empty or the whole image, score 0.
    """
    objects = true_regions(truths, (maps.shape[1], maps.shape[2]))
    return correlate_rows(maps.flatten(1), objects.flatten(1).to(maps.dtype))


def correlate_rows(one: Float[Tensor, "batch n"], other: Float[Tensor, "batch n"]) -> Scores:
    """Return Pearson's correlation, row by row; 0 where a row is constant."""
    return (_standardise_rows(one) * _standardise_rows(other)).sum(dim=1).clamp(-1, 1)


def _standardise_rows(rows: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Return rows of mean 0 and length 1; zeros for constant rows.

    Rows are stretched to [0, 1] first, so that rounding cannot make a constant row vary.
    """
    stretched = min_max_scale(rows[:, None])[:, 0]
    return F.normalize(stretched - stretched.mean(dim=1, keepdim=True), dim=1)


NCC = Metric(
    name="ncc",
    function=ncc,
    takes=("maps", "objects"),
    better="higher",
    title="NCC",
    phrase="NCC",
    meaning="correlation of the map with the object",
)
