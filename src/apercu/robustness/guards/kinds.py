"""Kinds of images that a guard should recognise and that need no data: noise, and backgrounds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ImageError, ImagesError
from apercu.images import ImageSource
from apercu.images.source import Item, UnlabelledImages, normalise_index
from apercu.images.stream import describe_left_out
from apercu.log import warn

NOISE, BACKGROUNDS = "noise", "backgrounds"
"""Names that people type for images that are made."""
NOISE_IMAGES = 200
SMALLEST_PART = 1 / 3
"""Smallest side of a background, as a fraction of the short side of its image."""
GRID = 12
"""Rows and columns of the positions at which a background is looked for."""


class MadeImages(UnlabelledImages):
    """Images without labels that are made when they are read."""

    def __len__(self) -> int:
        return len(self.names)


@final
@dataclass(frozen=True, eq=False)
class NoiseImages(MadeImages):
    """Images of independent uniform noise, each from its own seed.

    Args:
        channels: number of channels.
        size: height and width in pixels.
        seed: seed of the first image.
    """

    channels: int
    size: tuple[int, int]
    seed: int = 0

    @property
    def name(self) -> str:
        return f"{NOISE}:seed={self.seed}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{index:04}" for index in range(NOISE_IMAGES))

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        generator = torch.Generator().manual_seed(self.seed * NOISE_IMAGES + index)
        picture = torch.rand(self.channels, *self.size, generator=generator)
        return Item(self.names[index], picture, None, None, None)


@final
@dataclass(frozen=True, eq=False)
class Backgrounds(MadeImages):
    """The largest square of each image that touches no box; images without one are left out.

    Args:
        source: images with boxes.

    Raises:
        ImagesError: no image has boxes and enough background.
    """

    source: ImageSource

    def __post_init__(self) -> None:
        if not self.parts:
            raise ImagesError(
                f"{self.source.name}: {BACKGROUNDS} needs images with boxes that leave a square "
                f"of {SMALLEST_PART:.0%} of the short side free"
            )

    @property
    def name(self) -> str:
        return f"{BACKGROUNDS} of {self.source.name}"

    @cached_property
    def parts(self) -> dict[int, BackgroundSquare]:
        """The square of each image that has one, by the index of the image."""
        parts = {}
        errors: list[ImageError] = []
        for index in range(len(self.source)):
            try:
                item = self.source[index]
            except ImageError as error:
                errors.append(error)
                continue
            if item.boxes is None:
                continue
            part = find_background(item.boxes, (item.picture.shape[1], item.picture.shape[2]))
            if part is not None:
                parts[index] = part
        if errors:
            warn(describe_left_out(self.name, errors, len(self.source)))
        return parts

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.source.names[index] for index in self.parts)

    def __getitem__(self, index: int) -> Item:
        source_index = list(self.parts)[normalise_index(index, len(self))]
        top, left, side = self.parts[source_index]
        item = self.source[source_index]
        picture = item.picture[:, top : top + side, left : left + side]
        return Item(item.name, picture, None, None, None)


class BackgroundSquare(NamedTuple):
    """A square of an image.

    Attributes:
        top, left: position of its corner in pixels.
        side: its side in pixels.
    """

    top: int
    left: int
    side: int


def find_background(boxes: Tensor, size: tuple[int, int]) -> BackgroundSquare | None:
    """Return the largest square that touches no box.

    Args:
        boxes: left, top, right and bottom of each box in pixels, `boxes × 4`.
        size: height and width of the image in pixels.

    Returns:
        The square; None where every square of a third of the short side touches a box.
    """
    height, width = size
    short = min(height, width)
    for part in range(10, 0, -1):
        side = int(short * (SMALLEST_PART + (1 - SMALLEST_PART) * (part - 1) / 9))
        tops = torch.linspace(0, height - side, GRID).round()
        lefts = torch.linspace(0, width - side, GRID).round()
        top, left = (values.flatten() for values in torch.meshgrid(tops, lefts, indexing="ij"))
        apart = (
            (left[:, None] + side <= boxes[:, 0])
            | (left[:, None] >= boxes[:, 2])
            | (top[:, None] + side <= boxes[:, 1])
            | (top[:, None] >= boxes[:, 3])
        ).all(1)
        if bool(apart.any()):
            first = int(apart.nonzero()[0, 0])
            return BackgroundSquare(int(top[first]), int(left[first]), side)
    return None


def open_kind(text: str, clean: ImageSource, classifier: Classifier) -> ImageSource:
    """Open images that a guard should recognise as unknown.

    Args:
        text: `noise`, `backgrounds` (parts of the clean images outside of their boxes), or images
            as every verb takes them.
        clean: the clean images.
        classifier: the classifier, whose channels, bands and size the images have.

    Returns:
        The images.

    Raises:
        ImagesError: they cannot be opened, or the clean images have no boxes.
    """
    if text == NOISE:
        return NoiseImages(classifier.channels, classifier.size)
    if text == BACKGROUNDS:
        return Backgrounds(clean)
    return classifier.open_images(text)
