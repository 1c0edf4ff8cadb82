"""ROAD (Rong et al. 2022): remove pixels so that only their content is lost, not their looks.

Removed pixels are imputed: each becomes the weighted mean of its eight neighbours (1/6 beside and
above, 1/12 across corners; at the image's edge the weights of those inside are scaled up), plus
a little noise that hides the smoothness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from apercu.errors import ConfigError
from apercu.images import value_range
from apercu.metrics.flipping import rank_pixels, target_probability
from apercu.types import Images, Logits, Maps, Regions, Scores, Targets

ACCURACY = 1e-5
"""Largest imbalance between an imputed pixel and its neighbours, in units of the image's range."""
MAX_CACHED_VALUES = 600_000
"""Values that a processor keeps at hand; more at a time would be twice as slow there."""
COARSEST_SIDE, MAX_STEPS = 4, 100
"""Side of the coarsest grid; steps after which the solver takes what it has."""


@dataclass(frozen=True)
class RoadSettings:
    """Which shares of the pixels are removed, and the noise on what replaces them.

    The noise is the same for every image, in units of its range ([0, 1], or wider for raw counts);
    `batch` imputed images are answered at once.

    Raises:
        ConfigError: no shares, or one outside (0, 1); negative noise; a batch below 1.
    """

    fractions: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    noise: float = 0.01
    seed: int = 0
    batch: int = 32

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < share < 1 for share in self.fractions):
            raise ConfigError(f"road: expected shares in (0, 1), got {self.fractions}")
        if self.noise < 0 or self.batch < 1:
            raise ConfigError(
                "road: expected noise of at least 0 and a batch of at least 1, "
                f"got {self.noise} and {self.batch}"
            )


def road(
    classifier: Callable[[Images], Logits],
    images: Images,
    targets: Targets,
    maps: Maps,
    settings: RoadSettings | None = None,
) -> Scores:
    """Half the gap between removing the least and the most relevant pixels; higher is better.

    That is (p_least − p_most) / 2 of the target's probability, averaged over all shares: between
    −0.5 and 0.5, and about 0 for a map that tells nothing. Equal values are taken row by row.
    """
    settings = settings or RoadSettings()
    places, pixels = rank_pixels(maps), maps[0].numel()
    counts = torch.tensor(
        [round(share * pixels) for share in settings.fractions], device=maps.device
    )
    generator = torch.Generator().manual_seed(settings.seed)
    noise = settings.noise * torch.randn(images.shape[1:], generator=generator).to(images)
    lows, highs = value_range(images)
    gone = torch.cat((counts, -counts))  # the highest places, the lowest places
    found = []
    with torch.no_grad():
        pairs = torch.arange(len(images) * len(gone), device=maps.device)
        for pair in torch.split(pairs, settings.batch):
            image, count = pair // len(gone), gone[pair % len(gone), None, None]
            most, least = places[image] < count, places[image] >= pixels + count
            removed = torch.where(count > 0, most, least)
            shown = impute(images[image], ~removed)
            low, high = (bound[image] for bound in (lows, highs))
            noisy = (shown + (high - low) * noise).clamp(low, high)
            shown = torch.where(removed[:, None], noisy, shown)
            found.append(target_probability(classifier, shown, targets[image]))
    most_gone, least_gone = torch.cat(found).view(len(images), 2, -1).unbind(dim=1)
    return (least_gone - most_gone).mean(dim=1) / 2


def impute(images: Images, keep: Regions) -> Images:
    """Fills what is not kept from its surroundings, without noise.

    An image of which nothing is kept becomes its mean colour.
    """
    if images.device.type == "cpu" and images.numel() > MAX_CACHED_VALUES and len(images) > 1:
        count = max(1, MAX_CACHED_VALUES // images[0].numel())
        parts = zip(torch.split(images, count), torch.split(keep, count), strict=True)
        return torch.cat([impute(*part) for part in parts])
    nothing = ~keep.flatten(1).any(dim=1)[:, None, None, None]
    known = keep[:, None] | nothing
    mean = (images * known).sum(dim=(2, 3), keepdim=True) / known.sum(dim=(2, 3), keepdim=True)
    start = torch.where(keep[:, None], images, mean)
    return _solve(start, _build_grids((~known).to(images)))


def _build_grids(missing: Tensor) -> list[ImputationGrid]:
    """From fine to coarse; a coarse pixel is missing where all that it covers is."""
    grids = [ImputationGrid(missing, _sum_neighbours(torch.ones_like(missing)))]
    while min(missing.shape[2:]) > COARSEST_SIDE and missing.any():
        missing = -F.max_pool2d(-missing, 2, ceil_mode=True)
        grids.append(ImputationGrid(missing, _sum_neighbours(torch.ones_like(missing))))
    return grids


def _solve(images: Images, grids: list[ImputationGrid]) -> Images:
    """Conjugate gradients, each step corrected over all grids, on all images and channels."""
    fine = grids[0]
    rest = fine.compute_imbalance(images)
    low, high = value_range(images)
    enough = ACCURACY * (high - low)
    step, was, energy = None, rest, rest
    for _ in range(MAX_STEPS):
        if (rest.abs() <= enough).all():
            break
        push = _estimate_correction(rest, grids)
        if step is not None:
            push = push + _divide_safely(_sum_product(push, rest - was), energy) * step
        step, energy = push, _sum_product(push, rest)
        effect = -fine.compute_imbalance(step)
        length = _divide_safely(energy, _sum_product(step, effect))
        was, images, rest = rest, images + length * step, rest - length * effect
    return images


def _estimate_correction(rest: Tensor, grids: list[ImputationGrid]) -> Tensor:
    """About what removes the imbalance: a smoothing, the coarser grids, a smoothing."""
    fine, *coarser = grids
    found = rest / fine.weights
    if coarser:
        wide = 4 * F.avg_pool2d(rest + fine.compute_imbalance(found), 2, ceil_mode=True)
        coarse = _estimate_correction(coarser[0].missing * wide, coarser)
        size = rest.shape[2:]
        found = found + fine.missing * F.interpolate(coarse, size=size, mode="bilinear")
    return found + (rest + fine.compute_imbalance(found)) / fine.weights


@dataclass(frozen=True, eq=False)
class ImputationGrid:
    """One resolution of the linear system."""

    missing: Tensor
    """1 where a pixel is sought, else 0."""
    weights: Tensor
    """Of all neighbours inside the image."""

    def compute_imbalance(self, images: Tensor) -> Tensor:
        """By how much each missing pixel falls short of its neighbours, times their weights."""
        return self.missing * (_sum_neighbours(images) - self.weights * images)


def _sum_neighbours(images: Tensor) -> Tensor:
    """The weighted sum of the eight neighbours; nothing comes from outside the image.

    The nine weights of (1, 2, 1) × (1, 2, 1) / 12, less the pixel itself.
    """
    return (_sum_along(_sum_along(images, 2), 3) - 4 * images) / 12


def _sum_along(images: Tensor, dim: int) -> Tensor:
    length = images.shape[dim] - 1
    total = 2 * images
    total.narrow(dim, 1, length).add_(images.narrow(dim, 0, length))
    total.narrow(dim, 0, length).add_(images.narrow(dim, 1, length))
    return total


def _sum_product(one: Tensor, other: Tensor) -> Tensor:
    return (one * other).sum(dim=(2, 3), keepdim=True)


def _divide_safely(part: Tensor, whole: Tensor) -> Tensor:
    """0 where nothing is left to do."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1), 0)
