"""RISE: random cells of a grid are hidden from the classifier (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, final

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement
from apercu.types import Images, Maps, Picture, Targets


@final
@dataclass(frozen=True)
class Rise(Method):
    """The mean of random masks, each weighted by the target's probability: Σ p(x·M) M / (N·keep).

    A mask is a grid of cells that are on or off, enlarged bilinearly and cropped at random. Hidden
    pixels are black. All images receive the same masks, whatever the batch.

    Attributes:
        masks: the largest number of masks for each image.
        cells: the number of cells along each side of the grid.
        keep: the probability that a cell is on.
        batch: the number of masked images that the classifier receives at once.
        seed: the seed of the masks.
        tolerance: an image is finished once the maps of its even and its odd batches differ by less
            than this fraction of their contrast; 0 always computes all masks. The classifier
            counts the masks that were computed.

    Raises:
        ConfigError: a setting is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("queries",)
    slow: ClassVar[bool] = True
    masks: int = 4000
    cells: int = 7
    keep: float = 0.5
    batch: int = 64
    seed: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_counts("rise", masks=self.masks, cells=self.cells, batch=self.batch)
        check_sampling("rise", self.keep, self.tolerance)

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        size = (images.shape[2], images.shape[3])
        maps = [
            average_masks(classifier, image, target, self._draw_masks(size, images), self.tolerance)
            for image, target in zip(images, targets, strict=True)
        ]
        return torch.stack(maps) / self.keep

    def _draw_masks(self, size: tuple[int, int], like: Tensor) -> Iterator[Maps]:
        """Return all masks in batches on the device of `like`; random numbers come from the CPU."""
        generator = Generator().manual_seed(self.seed)
        sides = torch.tensor([ceil(length / self.cells) for length in size])
        for count in split_into_batches(self.masks, self.batch):
            draws = torch.rand(count, self.cells**2 + 2, generator=generator)
            shifts = (draws[:, -2:] * sides).floor().to(like)
            grids = (draws[:, :-2] < self.keep).view(count, self.cells, self.cells).to(like)
            rows, columns = (
                build_interpolation(self._locate_pixels(shift, length), self.cells)
                for shift, length in zip(shifts.unbind(dim=1), size, strict=True)
            )
            yield rows @ grids @ columns.mT

    def _locate_pixels(self, shifts: Tensor, length: int) -> Float[Tensor, "batch length"]:
        """Return the positions of pixels in the grid, which is one cell larger than the image."""
        large = (self.cells + 1) * ceil(length / self.cells)
        pixels = torch.arange(length, device=shifts.device) + shifts[:, None]
        return (pixels + 0.5) * (self.cells / large) - 0.5


def average_masks(
    classifier: Classifier,
    image: Picture,
    target: Tensor,
    masks: Iterable[Maps],
    tolerance: float,
) -> Float[Tensor, "height width"]:
    """Return the mean of the masks, each weighted by the target's probability under it.

    Only one batch of masked images is in memory.

    Args:
        classifier: the classifier that receives the masked images.
        image: one image in [0, 1], `channels × height × width`.
        target: one class index.
        masks: batches of masks on the device of the image, `batch × height × width`.
        tolerance: the difference at which the mean is final, as in `Rise`.

    Returns:
        The weighted mean, `height × width`.
    """
    sums = image.new_zeros(2, image.shape[1] * image.shape[2])
    counts = [0, 0]
    column = int(target)
    with torch.no_grad():
        for turn, batch in enumerate(masks):
            probabilities = classifier.predict_probabilities(image * batch[:, None])
            sums[turn % 2].addmv_(batch.flatten(1).T, probabilities[:, column])
            counts[turn % 2] += len(batch)
            if tolerance and turn and _has_converged(sums, counts, tolerance):
                break
    return sums.sum(dim=0).view(image.shape[1:]) / sum(counts)


def _has_converged(sums: Tensor, counts: list[int], tolerance: float) -> bool:
    """Return whether two maps of separate masks agree.

    Half of their difference estimates the error of the mean.
    """
    even, odd = (total / count for total, count in zip(sums, counts, strict=True))
    return bool((even - odd).std() <= tolerance * (even + odd).std())


def build_interpolation(
    positions: Float[Tensor, "batch length"], cells: int
) -> Float[Tensor, "batch length cells"]:
    """Return matrices that enlarge one axis bilinearly; the border is repeated.

    Args:
        positions: the position of each pixel among the cells.
        cells: the number of cells along the axis.

    Returns:
        The weight of each cell for each pixel, `batch × length × cells`.
    """
    inside = positions.clamp(0, cells - 1)
    return (1 - (inside[..., None] - torch.arange(cells).to(positions)).abs()).relu()


def split_into_batches(total: int, most: int) -> Iterator[int]:
    """Return the batch sizes that make up a total.

    >>> list(split_into_batches(5, 2))
    [2, 2, 1]
    """
    for done in range(0, total, most):
        yield min(most, total - done)


def check_counts(method: str, **counts: int) -> None:
    """Refuse a count below 1.

    Raises:
        ConfigError: a count is below 1.
    """
    for name, count in counts.items():
        if count < 1:
            raise ConfigError(f"{method}: expected {name} of at least 1, got {count}")


def check_sampling(method: str, keep: float, tolerance: float) -> None:
    """Refuse a probability outside (0, 1) and a tolerance below 0.

    Raises:
        ConfigError: one of them is out of range.
    """
    if not 0 < keep < 1:
        raise ConfigError(f"{method}: expected keep in (0, 1), got {keep}")
    if not tolerance >= 0:
        raise ConfigError(f"{method}: expected tolerance of at least 0, got {tolerance}")
