"""Control regions: as large as the marked ones, elsewhere in the film."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from apercu.metrics.evidence_exchange import find_centres, move_regions

OVERLAP, AREA_RATIO = 0.25, 1.4
"""Largest fraction of a control on the marks, and largest ratio of their areas."""


def make_sites(regions: Tensor, draws: int, seed: int) -> dict[str, Tensor]:
    """Return the marked regions, and regions of the same size elsewhere.

    Args:
        regions: the marked pixels, `films × height × width`.
        draws: regions of other films for each film, drawn with replacement.
        seed: seed of this choice.

    Returns:
        Regions by the name of the site, `films × draws × height × width`, with one draw where
        nothing is random; empty where a film has no such region.
    """
    middle = torch.tensor(regions.shape[1:]) / 2
    centred = move_regions(regions, (middle - find_centres(regions)).round().long())
    return {
        "marked": regions[:, None],
        "mirrored": drop_invalid(regions.flip(2), regions)[:, None],
        "elsewhere": draw_elsewhere(regions, draws, seed),
        "centre": drop_invalid(centred, regions)[:, None],
        "all but the marked": ~regions[:, None],
        "everything": torch.ones_like(regions)[:, None],
    }


def draw_elsewhere(regions: Tensor, draws: int, seed: int) -> Tensor:
    """Return for each film marked regions of other films that are as large and lie elsewhere.

    Args:
        regions: the marked pixels, `films × height × width`.
        draws: regions for each film, drawn with replacement.
        seed: seed of the choice.

    Returns:
        Regions, `films × draws × height × width`; empty where no other region fits.
    """
    generator = Generator().manual_seed(seed)
    areas = regions.flatten(1).sum(1).float()
    elsewhere = torch.zeros(len(regions), draws, *regions.shape[1:], dtype=torch.bool)
    for row, region in enumerate(regions):
        ratio = areas / areas[row]
        is_as_large = (ratio < AREA_RATIO) & (ratio > 1 / AREA_RATIO)
        is_elsewhere = measure_overlap(regions, region) <= OVERLAP
        if len(fitting := (is_as_large & is_elsewhere).nonzero()[:, 0]):
            chosen = torch.randint(len(fitting), (draws,), generator=generator)
            elsewhere[row] = regions[fitting[chosen]]
    return elsewhere


def measure_overlap(regions: Tensor, marked: Tensor) -> Tensor:
    """Return the fraction of each region that lies on the marks; 0 for an empty region."""
    shared = (regions & marked).flatten(1).sum(1)
    return shared / regions.flatten(1).sum(1).clamp(min=1)


def drop_invalid(controls: Tensor, regions: Tensor) -> Tensor:
    """Return controls of which those that overlap the marks, or left the film, are empty.

    Args:
        controls: one region per film, `films × height × width`.
        regions: the marked pixels in the same shape.

    Returns:
        Regions in the same shape.
    """
    marked = regions.flatten(1).sum(1)
    areas = controls.flatten(1).sum(1) / marked
    overlap = (controls & regions).flatten(1).sum(1) / marked
    is_valid = (overlap <= OVERLAP) & (areas > 1 / AREA_RATIO)
    return controls & is_valid[:, None, None]
