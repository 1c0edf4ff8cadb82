"""How far an attack had to go, and how far it moved the explanation."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from apercu.types import Images, Maps, Scores

ROUNDING = 1e-6
"""A change that is larger than a budget by this, or less, is within it."""
STRONGEST = 0.2
"""Share of the pixels that counts as what a map points at."""


def compute_norms(images: Images, attacked: Images) -> dict[str, Scores]:
    """Size of each change: `linf` the largest of a value, `l2` the root mean square of all values
    (1 is from black to white everywhere), `l0` the share of pixels that differ at all."""
    change = (attacked - images).detach()
    return {
        "linf": change.abs().flatten(1).amax(1),
        "l2": change.flatten(1).square().mean(1).sqrt(),
        "l0": (change != 0).any(1).flatten(1).float().mean(1),
    }


def measure_correctness_at(
    smallest: Float[np.ndarray, " images"], budgets: Sequence[float]
) -> Float[np.ndarray, "budgets images"]:
    """Who stays right at each budget; the means are an accuracy-perturbation curve (Šircelj and
    Skočaj 2020).

    Args:
        smallest: for each image the norm of the smallest change that fools; 0 where the honest
            image is wrong already, infinity where none was found.
        budgets: norms at which the accuracy is wanted.

    Returns:
        1 where an image needs more than a budget, else 0.
    """
    return (smallest[None, :] > np.asarray(budgets)[:, None] + ROUNDING).astype(float)


def area_under_accuracy_curve(
    right: Float[np.ndarray, "sizes images"], sizes: Sequence[float]
) -> Float[np.ndarray, " images"]:
    """Each image's share of the area under the accuracy-perturbation curve (Bouniot et al. 2021).

    The mean is (1 / e_max) ∫ accuracy(e) de from 0 to e_max by the trapezoid rule, from the
    accuracy on honest images at 0 through the accuracy at every size.

    Args:
        right: 1 where an image is right at a size.
        sizes: norms, ascending, the first 0.
    """
    return np.trapezoid(right, np.asarray(sizes), axis=0) / sizes[-1]


def rank_correlation(before: Maps, after: Maps) -> Scores:
    """Spearman's correlation of the pixels of two maps of the same image; ties share their rank.

    0 where one of them is constant.
    """
    first, second = (_rank_values(values.flatten(1)) for values in (before, after))
    first, second = (values - values.mean(1, keepdim=True) for values in (first, second))
    lengths = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(lengths > 0, (first * second).sum(1) / lengths.clamp(min=1e-12), 0.0)


def overlap_of_strongest(before: Maps, after: Maps) -> Scores:
    """IoU of the strongest fifth of the pixels of two maps."""
    count = max(1, round(STRONGEST * before[0].numel()))
    chosen = []
    for maps in (before, after):
        flat = maps.flatten(1)
        places = flat.topk(count, dim=1).indices
        chosen.append(torch.zeros_like(flat, dtype=torch.bool).scatter_(1, places, 1))
    both, either = (chosen[0] & chosen[1]).sum(1), (chosen[0] | chosen[1]).sum(1)
    return both / either


def _rank_values(values: Tensor) -> Tensor:
    """Mean rank of equal values, in double precision."""
    rows = []
    for row in values:
        _, places, counts = row.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        rows.append((last - (counts.double() - 1) / 2)[places])
    return torch.stack(rows).float()
