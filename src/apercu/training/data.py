"""Training images in an order that depends on seed and step alone, so that training can go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from apercu.classifiers.distillation_data import PreparedImages
from apercu.classifiers.preprocessing import FitMode
from apercu.errors import ImageError, ImagesError
from apercu.images import ImageSource, Item
from apercu.types import Picture

MAX_UNUSABLE = 0.5
"""Share of unreadable images above which training stops."""

MAX_HELD_OUT = 96
"""Images that are kept from training, at most; never more than a twentieth of all."""


MAX_CACHED_BYTES = 512 << 20
"""Prepared images are kept in memory up to this size, and read again at every use above it."""


TargetFunction: TypeAlias = Callable[[int, Item], Any]
"""An image's place in its source, and the image → what a network should say of it."""


@runtime_checkable
class ImagePreparer(Protocol):
    """A classifier, as far as the stream needs it."""

    def prepare(self, picture: Picture, fit: FitMode = "squash") -> Tensor: ...


@dataclass(frozen=True)
class LabelTarget:
    """The class of each image, as wanted.

    Args:
        names: whose `index_of` turns the labels of images into classes.
    """

    names: Any

    def __call__(self, place: int, item: Item) -> int:
        """Raises ImagesError for an image without a label."""
        if item.label is None:
            raise ImagesError(f"{item.name}: has no label")
        return int(self.names.index_of(item.label))


class TrainingImages(Dataset[Any]):
    """Prepared images of a source by index; an unreadable one is replaced by its neighbour.

    Args:
        source: where the pictures come from.
        classifier: its door says how they are prepared.
        indices: which of the source's images; all when None.
        wanted: what comes with each image; images alone where None.

    Attributes:
        unusable: by index in the source, why an image had to be replaced; of this process alone.
    """

    def __init__(
        self,
        source: ImageSource,
        classifier: ImagePreparer,
        indices: Sequence[int] | None = None,
        *,
        target_of: TargetFunction | None = None,
    ) -> None:
        self.source = source
        self.classifier = classifier
        self.indices = range(len(source)) if indices is None else indices
        self.target_of = target_of
        self.unusable: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        tries, reason = max(1, int(MAX_UNUSABLE * len(self))), ""
        for offset in range(tries):
            place = self.indices[(index + offset) % len(self)]
            try:
                return self._read(place)
            except (ImageError, ImagesError) as error:
                self.unusable[place] = reason = str(error)
        raise ImagesError(
            f"{self.source.name}: {tries} images in a row cannot be used, the last because {reason}"
        )

    def _read(self, place: int) -> Any:
        item = self.source[place]
        image = self.classifier.prepare(item.picture)
        return image if self.target_of is None else (image, self.target_of(place, item))


def cache_in_memory(images: TrainingImages) -> PreparedImages:
    """The same images, read once and kept when they take less than `KEPT_BYTES`."""
    if not len(images) or images[0].nbytes * len(images) > MAX_CACHED_BYTES:
        return images
    return [images[index] for index in range(len(images))]


def split_held_out(length: int, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and those held out to measure what was trained.

    Raises:
        ImagesError: there are fewer than two images.
    """
    if length < 2:
        raise ImagesError(f"expected at least 2 images to train on, got {length}")
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed)).tolist()
    kept = max(1, min(MAX_HELD_OUT, length // 20))
    return sorted(order[kept:]), sorted(order[:kept])


@dataclass(frozen=True)
class EndlessSampler(Sampler[int]):
    """Indices in shuffled passes, forever, starting anywhere; each rank sees its own share.

    Args:
        length: number of images.
        seed: of the shuffling.
        start: how many indices of this rank have been used already.
        rank: which process this is.
        ranks: how many there are.
    """

    length: int
    seed: int
    start: int = 0
    rank: int = 0
    ranks: int = 1

    def __iter__(self) -> Iterator[int]:
        position = self.start * self.ranks + self.rank
        turn, order = -1, torch.empty(0)
        while True:
            if position // self.length != turn:
                turn = position // self.length
                generator = torch.Generator().manual_seed(self.seed * 1_000_003 + turn)
                order = torch.randperm(self.length, generator=generator)
            yield int(order[position % self.length])
            position += self.ranks
