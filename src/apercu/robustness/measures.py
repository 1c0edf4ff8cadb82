"""The size of the change that an attack makes, and the distance of the maps before and after."""

from __future__ import annotations

import torch
from torch import Tensor

from apercu.types import Images, Maps, Scores

STRONGEST = 0.2
"""Fraction of the pixels that counts as the strongest part of a map."""


def compute_norms(images: Images, attacked: Images) -> dict[str, Scores]:
    """Compute the size of each change in three norms.

    `linf` is the largest change of a value, `l2` the root mean square over all values (1 is from
    black to white everywhere), and `l0` the fraction of pixels that differ at all.

    Args:
        images: clean images in [0, 1].
        attacked: the same images after an attack.

    Returns:
        One number per image, by the name of the norm.
    """
    change = (attacked - images).detach()
    return {
        "linf": change.abs().flatten(1).amax(1),
        "l2": change.flatten(1).square().mean(1).sqrt(),
        "l0": (change != 0).any(1).flatten(1).float().mean(1),
    }


def rank_correlation(before: Maps, after: Maps) -> Scores:
    """Compute Spearman's correlation of the pixels of two maps of the same image.

    Equal values share their rank. The correlation is 0 where one of the maps is constant. Stored
    results of stress tests hold these values to their last digits.
    """
    first, second = (_rank_values(values.flatten(1)) for values in (before, after))
    first, second = (values - values.mean(1, keepdim=True) for values in (first, second))
    lengths = first.norm(dim=1) * second.norm(dim=1)
    return torch.where(lengths > 0, (first * second).sum(1) / lengths.clamp(min=1e-12), 0.0)


def overlap_of_strongest(before: Maps, after: Maps) -> Scores:
    """Compute the IoU of the strongest fifth of the pixels of two maps."""
    count = max(1, round(STRONGEST * before[0].numel()))
    strongest = []
    for maps in (before, after):
        flat = maps.flatten(1)
        indices = flat.topk(count, dim=1).indices
        strongest.append(torch.zeros_like(flat, dtype=torch.bool).scatter_(1, indices, 1))
    both = (strongest[0] & strongest[1]).sum(1)
    either = (strongest[0] | strongest[1]).sum(1)
    return both / either


def _rank_values(values: Tensor) -> Tensor:
    """Rank the values of each row in double precision; equal values get their mean rank."""
    rows = []
    for row in values:
        _, indices, counts = row.unique(return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        rows.append((last - (counts.double() - 1) / 2)[indices])
    return torch.stack(rows).float()
