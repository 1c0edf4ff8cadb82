"""MFPP: RISE with fragments of the image, from coarse to fine, for cells (Yang et al. 2020)."""

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
    """Masks of SLIC fragments, each weighted by the probability of the target that it leaves.

    As in the authors' code a mask is magnified and cut out at random, so its fragments keep their
    shapes but not their places; with a magnification of 1 they stay where they are. The weight is
    RISE's softmax (theirs is the logit's sigmoid), so that only the masks differ.

    Args:
        masks: asked for each image, at most; every level of fragments has the same share.
        levels: about how many fragments each level has.
        keep: probability that a fragment is on.
        magnify: of the masks before they are cut to the image's size.
        batch: masked images answered at a time.
        seed: of the masks.
        tolerance: stops early, as in `Rise`.

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
        """All masks of one image, some at a time; level after level, mask by mask."""
        labels = torch.stack([compute_superpixels(image, count) for count in self.levels])
        most = int(labels.max()) + 1
        generator = Generator().manual_seed(self.seed)
        done = 0
        for count in split_into_batches(self.masks, self.batch):
            draws = torch.rand(count, most + 2, generator=generator)
            levels = (torch.arange(done, done + count) % len(labels)).to(image.device)
            states = (draws[:, :-2] < self.keep).to(image)
            yield self._magnify_masks(labels, levels, states, draws[:, -2:])
            done += count

    def _magnify_masks(
        self,
        labels: Int[Tensor, "levels height width"],
        levels: Int[Tensor, " batch"],
        states: Float[Tensor, "batch fragments"],
        draws: Float[Tensor, "batch 2"],
    ) -> Maps:
        """Masks from the states of their fragments; only the part that is cut out is looked up."""
        size = (labels.shape[1], labels.shape[2])
        rows, columns = (
            self._sample_positions(draw, length).to(states)
            for draw, length in zip(draws.unbind(dim=1), size, strict=True)
        )
        down, across = (self._find_span(places) for places in (rows, columns))
        shown = labels[levels[:, None, None], down[:, :, None], across[:, None, :]]
        lit = states.gather(1, shown.flatten(1)).view(shown.shape)
        above, left = (
            build_interpolation(places - span[:, :1], span.shape[1])
            for places, span in ((rows, down), (columns, across))
        )
        return above @ lit @ left.mT

    def _sample_positions(
        self, draws: Float[Tensor, " batch"], length: int
    ) -> Float[Tensor, "batch length"]:
        """Where each pixel lies in the mask before it was magnified, repeated at the border."""
        large = round(self.magnify * length)
        shifts = (draws * (large - length + 1)).floor()
        places = (torch.arange(length) + shifts[:, None] + 0.5) * (length / large) - 0.5
        return places.clamp(0, length - 1)

    def _find_span(self, places: Float[Tensor, "batch length"]) -> Int[Tensor, "batch span"]:
        """The lines of the unmagnified mask that each row of places lies among."""
        length = places.shape[1]
        reach = min(length, ceil((length - 1) * length / round(self.magnify * length)) + 2)
        first = places[:, 0].floor().long().clamp(max=length - reach)
        return first[:, None] + torch.arange(reach, device=places.device)
