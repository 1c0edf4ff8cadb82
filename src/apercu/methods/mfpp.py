"""MFPP: RISE with superpixels of the image, from coarse to fine (Yang et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import ClassVar, final

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import Method, Requirement
from apercu.methods.rise import (
    average_masks,
    build_interpolation,
    check_counts,
    check_sampling,
    split_into_batches,
)
from apercu.methods.superpixels import compute_superpixels
from apercu.types import Images, Maps, Picture, Targets


@final
@dataclass(frozen=True)
class Mfpp(Method):
    """The mean of masks of SLIC superpixels, each weighted by the target's probability.

    As in the authors' code a mask is magnified and cropped at random, so its superpixels keep their
    shapes but not their positions; with a magnification of 1 they keep both. The weight is the
    classifier's probability, as in RISE (the authors always use the sigmoid of the logit), so that
    the two methods differ in their masks only.

    Attributes:
        masks: the largest number of masks for each image, the same number for every level.
        levels: the approximate number of superpixels of each level.
        keep: the probability that a superpixel is on.
        magnify: the magnification of the masks before they are cropped.
        batch: the number of masked images that the classifier receives at once.
        seed: the seed of the masks.
        tolerance: the difference at which an image is finished, as in `Rise`.

    Raises:
        ConfigError: a setting is out of range.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("queries",)
    slow: ClassVar[bool] = True
    masks: int = 4000
    levels: tuple[int, ...] = (50, 100, 200, 400, 800)
    keep: float = 0.5
    magnify: float = 3.0
    batch: int = 64
    seed: int = 0
    tolerance: float = 0.0

    def __post_init__(self) -> None:
        check_counts("mfpp", masks=self.masks, batch=self.batch, levels=len(self.levels))
        check_counts("mfpp", fragments=min(self.levels))
        check_sampling("mfpp", self.keep, self.tolerance)
        if not self.magnify >= 1:
            raise ConfigError(f"mfpp: expected magnify of at least 1, got {self.magnify}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        maps = [
            average_masks(classifier, image, target, self._draw_masks(image), self.tolerance)
            for image, target in zip(images, targets, strict=True)
        ]
        return torch.stack(maps)

    def _draw_masks(self, image: Picture) -> Iterator[Maps]:
        """Return all masks of one image in batches; successive masks have successive levels."""
        labels = torch.stack([compute_superpixels(image, count) for count in self.levels])
        superpixels = int(labels.max()) + 1
        generator = Generator().manual_seed(self.seed)
        done = 0
        for count in split_into_batches(self.masks, self.batch):
            draws = torch.rand(count, superpixels + 2, generator=generator)
            levels = (torch.arange(done, done + count) % len(labels)).to(image.device)
            states = (draws[:, :-2] < self.keep).to(image)
            yield self._magnify_masks(labels, levels, states, draws[:, -2:])
            done += count

    def _magnify_masks(
        self,
        labels: Int[Tensor, "levels height width"],
        levels: Int[Tensor, " batch"],
        states: Float[Tensor, "batch superpixels"],
        draws: Float[Tensor, "batch 2"],
    ) -> Maps:
        """Return masks from the states of their superpixels; only the cropped part is computed."""
        size = (labels.shape[1], labels.shape[2])
        rows, columns = (
            self._sample_positions(draw, length).to(states)
            for draw, length in zip(draws.unbind(dim=1), size, strict=True)
        )
        down, across = (self._find_span(positions) for positions in (rows, columns))
        cropped = labels[levels[:, None, None], down[:, :, None], across[:, None, :]]
        on = states.gather(1, cropped.flatten(1)).view(cropped.shape)
        above, left = (
            build_interpolation(positions - span[:, :1], span.shape[1])
            for positions, span in ((rows, down), (columns, across))
        )
        return above @ on @ left.mT

    def _sample_positions(
        self, draws: Float[Tensor, " batch"], length: int
    ) -> Float[Tensor, "batch length"]:
        """Return the position of each pixel in the mask before magnification, within its border."""
        large = round(self.magnify * length)
        shifts = (draws * (large - length + 1)).floor()
        positions = (torch.arange(length) + shifts[:, None] + 0.5) * (length / large) - 0.5
        return positions.clamp(0, length - 1)

    def _find_span(self, positions: Float[Tensor, "batch length"]) -> Int[Tensor, "batch span"]:
        """Return the rows of the unmagnified mask that surround each row of positions."""
        length = positions.shape[1]
        reach = min(length, ceil((length - 1) * length / round(self.magnify * length)) + 2)
        first = positions[:, 0].floor().long().clamp(max=length - reach)
        return first[:, None] + torch.arange(reach, device=positions.device)
