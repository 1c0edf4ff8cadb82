"""Which images are explained: all that were named, or a seeded handful of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from apercu.classifiers import InputSpec
from apercu.images import ImageSource, open_images
from apercu.images.folder import FolderImages
from apercu.images.formats.dicom import DicomReference
from apercu.types import Picture


@dataclass(frozen=True)
class ImageRef:
    """One image of a source, not read yet."""

    source: ImageSource
    index: int

    def read_image(self) -> tuple[str, Picture]:
        """Name and picture.

        Raises:
            ImageError: it cannot be read.
        """
        item = self.source[self.index]
        return item.name, item.picture

    @property
    def name(self) -> str:
        """Which image it is, where it is not read."""
        return f"image {self.index + 1} of {self.source.name}"

    def find_reference(self) -> DicomReference | None:
        """How a DICOM file refers to the image; None where it is no DICOM itself."""
        if isinstance(self.source, FolderImages):
            return self.source.dicom_reference(self.index)
        return None


def select_images(
    specs: Sequence[str | Path], input: InputSpec, random: int | None = None, seed: int = 0
) -> list[ImageRef]:
    """All images of the sources, or `random` of them in their order.

    Args:
        specs: of the sources.
        input: says how many channels there are, and how bands are called.
        random: how many.
        seed: of their draw.

    Raises:
        ImagesError: a file or folder is missing, or holds no images.
    """
    sources = [open_images(s, channels=input.channels, bands=input.bands) for s in specs]
    every = [ImageRef(source, index) for source in sources for index in range(len(source))]
    if random is None or random >= len(every):
        return every
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    return [every[place] for place in sorted(order[:random].tolist())]
