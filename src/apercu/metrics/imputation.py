"""Imputation: removed pixels are filled in from their neighbours (Rong et al. 2022).

Each missing pixel becomes the weighted mean of its eight neighbours: 1/6 for the four at its sides,
1/12 for those at its corners; at the edge of the image the weights of those inside are scaled up.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.images import value_range
from apercu.statistics import divide_or
from apercu.types import Images, Regions

ACCURACY = 1e-5
"""Largest imbalance between an imputed pixel and its neighbours, in units of the image's range."""
MAX_CACHED_VALUES = 600_000
"""Values that fit into the cache of a processor; more at a time take twice as long there."""
COARSEST_SIDE, MAX_STEPS = 4, 100
"""The side of the coarsest grid, and the number of steps after which the solver stops."""


def impute(images: Images, keep: Regions) -> Images:
    """Fill the pixels that are not kept from their surroundings, without noise.

    An image of which nothing is kept becomes its mean colour.
    """
    if images.device.type == "cpu" and images.numel() > MAX_CACHED_VALUES and len(images) > 1:
        count = max(1, MAX_CACHED_VALUES // images[0].numel())
        parts = zip(torch.split(images, count), torch.split(keep, count), strict=True)
        return torch.cat([impute(*part) for part in parts])
    nothing = ~keep.flatten(1).any(dim=1)[:, None, None, None]
    visible = keep[:, None] | nothing
    mean = (images * visible).sum(dim=(2, 3), keepdim=True) / visible.sum(dim=(2, 3), keepdim=True)
    start = torch.where(keep[:, None], images, mean)
    return _solve(start, _build_grids((~visible).to(images)))


@dataclass(frozen=True, eq=False)
class ImputationGrid:
    """One resolution of the linear system that imputation solves."""

    missing: Tensor
    """1 where a pixel is imputed, else 0."""
    weights: Tensor
    """The sum of the weights of each pixel's neighbours inside the image."""

    def compute_imbalance(self, images: Tensor) -> Tensor:
        """Return how far each missing pixel lies below the weighted sum of its neighbours."""
        return self.missing * (_sum_neighbours(images) - self.weights * images)


def _build_grids(missing: Tensor) -> list[ImputationGrid]:
    """Return the grids from fine to coarse; a coarse pixel is missing where all its pixels are."""
    grids = [ImputationGrid(missing, _sum_neighbours(torch.ones_like(missing)))]
    while min(missing.shape[2:]) > COARSEST_SIDE and missing.any():
        missing = -F.max_pool2d(-missing, 2, ceil_mode=True)
        grids.append(ImputationGrid(missing, _sum_neighbours(torch.ones_like(missing))))
    return grids


def _solve(images: Images, grids: list[ImputationGrid]) -> Images:
    """Solve the linear system by conjugate gradients, preconditioned by multigrid."""
    fine = grids[0]
    residual = fine.compute_imbalance(images)
    low, high = value_range(images)
    tolerance = ACCURACY * (high - low)
    step, previous, energy = None, residual, residual
    for _ in range(MAX_STEPS):
        if (residual.abs() <= tolerance).all():
            break
        direction = _estimate_correction(residual, grids)
        if step is not None:
            weight = divide_or(_sum_product(direction, residual - previous), energy)
            direction = direction + weight * step
        step, energy = direction, _sum_product(direction, residual)
        effect = -fine.compute_imbalance(step)
        length = divide_or(energy, _sum_product(step, effect))
        previous, residual = residual, residual - length * effect
        images = images + length * step
    return images


def _estimate_correction(residual: Tensor, grids: list[ImputationGrid]) -> Tensor:
    """Return about what removes the residual, by one multigrid cycle.

    The cycle smooths, corrects over the coarser grids, and smooths again.
    """
    fine, *coarser = grids
    correction = residual / fine.weights
    if coarser:
        rest = residual + fine.compute_imbalance(correction)
        coarse = coarser[0].missing * 4 * F.avg_pool2d(rest, 2, ceil_mode=True)
        coarse = _estimate_correction(coarse, coarser)
        size = residual.shape[2:]
        correction = correction + fine.missing * F.interpolate(coarse, size=size, mode="bilinear")
    return correction + (residual + fine.compute_imbalance(correction)) / fine.weights


def _sum_neighbours(images: Tensor) -> Tensor:
    """Return the weighted sum of the eight neighbours that lie inside the image.

    The weights are those of (1, 2, 1) × (1, 2, 1) / 12, without the pixel itself.
    """
    return (_sum_along(_sum_along(images, 2), 3) - 4 * images) / 12


def _sum_along(images: Tensor, dim: int) -> Tensor:
    """Return sums with the weights (1, 2, 1) along one dimension."""
    length = images.shape[dim] - 1
    total = 2 * images
    total.narrow(dim, 1, length).add_(images.narrow(dim, 0, length))
    total.narrow(dim, 0, length).add_(images.narrow(dim, 1, length))
    return total


def _sum_product(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(2, 3), keepdim=True)
