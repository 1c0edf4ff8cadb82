"""The size of the change that an attack makes, and the distance of the maps before and after."""

from __future__ import annotations

import torch

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
