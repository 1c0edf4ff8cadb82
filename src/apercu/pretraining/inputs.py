"""From what people type to what a pretraining needs: readable images, and what comes with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import torch

from apercu.classifiers import Classifier, InputSpec
from apercu.errors import ConfigError, ImageError, ImagesError
from apercu.images import ImageSource, batches
from apercu.images.catalogue import (
    CatalogueMatch,
    match_by_id,
    match_by_position,
    read_catalogue,
    read_sky_positions,
)
from apercu.images.folder import FolderImages
from apercu.images.source import ChosenImages
from apercu.images.stretch import StretchMethod, measure_stretch
from apercu.pretraining.targets import CatalogueValues
from apercu.pretraining.train import PretrainImages
from apercu.types import Picture

StretchChoice: TypeAlias = Literal["auto", "none"] | StretchMethod
"""`auto` is arcsinh for raw counts, and none for pictures in [0, 1]."""

SAMPLED_IMAGES = 256
"""Images on which a stretch is measured."""
LARGEST_SIZE = 224
"""Pixels of the longer side that images have where nobody says a size."""
BATCH = 64


@dataclass(frozen=True)
class CatalogueJoin:
    """Which columns of a catalogue belong to images, and how rows are found.

    Args:
        catalogue: CSV, Parquet or FITS table.
        columns: of magnitudes.
        id: column of the images' names; None to match positions on the sky.
        radius: of that match, arc seconds.
    """

    catalogue: Path
    columns: tuple[str, ...]
    id: str | None
    radius: float

    def __call__(self, source: ImageSource) -> tuple[PretrainImages, int]:
        """The images that have at least one of the magnitudes, and how many have none.

        Raises:
            ConfigError: the catalogue lacks a column.
            ImagesError: it cannot be read, or most images are not in it.
        """
        catalogue = read_catalogue(self.catalogue)
        columns = [catalogue.numbers(name) for name in self.columns]
        rows = self._match_rows(source).rows
        values = np.stack(columns, 1)[rows]
        known = np.flatnonzero((rows >= 0) & np.isfinite(values).any(1))
        if not len(known):
            raise ImagesError(f"{catalogue.path}: no image of {source.name} has a magnitude")
        chosen = ChosenImages(source, tuple(known.tolist()))
        found = torch.from_numpy(values[known]).float()
        return PretrainImages(chosen, CatalogueValues(found), self.columns), len(source) - len(
            known
        )

    def _match_rows(self, source: ImageSource) -> CatalogueMatch:
        catalogue = read_catalogue(self.catalogue)
        if self.id is not None:
            return match_by_id(source.names, catalogue, self.id)
        try:
            sky = read_sky_positions(source)
        except ImagesError as error:
            raise ConfigError(f"{error}; say --id") from None
        return match_by_position(*sky, catalogue, self.radius)


@dataclass(frozen=True)
class InputOptions:
    """How images shall look to a network.

    Args:
        channels: how many bands they have.
        size: side in pixels; that of the first image, if None, or `LARGEST` if that is larger.
        stretching: what becomes of raw counts.
        known: what the network that is the start expects; its normalisation is kept where the
            number of bands is the same, and its stretch where `stretching` is `auto`.
    """

    channels: int
    size: int | None = None
    stretching: StretchChoice = "auto"
    known: InputSpec | None = None


def choose_input(source: ImageSource, looks: InputOptions) -> InputSpec:
    """What a network shall expect of images like these.

    Args:
        source: of which some are looked at.
        looks: as far as it is asked for.

    Raises:
        ImagesError: none can be read, or they hold raw counts that nothing shall stretch.
    """
    sample, channels = list(sample_pictures(source)), looks.channels
    if not sample:
        raise ImagesError(f"{source.name}: none of the first images can be read")
    raw = any(not _is_pixels(picture) for picture in sample)
    same = looks.known if looks.known and looks.known.channels == channels else None
    kind = ("arcsinh" if raw else "none") if looks.stretching == "auto" else looks.stretching
    if raw and kind == "none":
        raise ImagesError(f"{source.name}: holds raw counts; choose a --stretch")
    stretch = None if kind == "none" else measure_stretch(sample, kind)
    if same and raw and looks.stretching == "auto" and same.stretch:
        stretch = same.stretch
    height, width = (looks.size or min(side, LARGEST_SIZE) for side in sample[0].shape[1:])
    return InputSpec(
        channels=channels,
        size=(height, width),
        mean=same.mean if same else (0.5,) * channels,
        std=same.std if same else (0.25,) * channels,
        bands=source.bands if isinstance(source, FolderImages) else None,
        stretch=stretch,
    )


def find_readable(
    source: ImageSource, backbone: Classifier, report: Callable[[int, int], None]
) -> tuple[ImageSource, list[ImageError]]:
    """The images that can be used, after a look at all of them, and what is wrong with the others.

    Raises:
        ImagesError: most of them cannot be used.
    """
    wrong: list[ImageError] = []
    good: list[int] = []
    for batch in batches(source, backbone.prepare, BATCH, skip=wrong.append):
        good += batch.indices
        report(len(good) + len(wrong), len(source))
    report(len(source), len(source))
    if len(wrong) > len(good):
        raise ImagesError(
            f"{source.name}: {len(wrong)} of {len(source)} images cannot be used, the first "
            f"because {wrong[0]}"
        )
    return (ChosenImages(source, tuple(good)) if wrong else source), wrong


def sample_pictures(source: ImageSource) -> Iterable[Picture]:
    """Some pictures from all over the source; those that cannot be read are left out."""
    for index in range(0, len(source), max(1, len(source) // SAMPLED_IMAGES)):
        try:
            yield source[index].picture
        except ImageError:
            continue


def _is_pixels(picture: Picture) -> bool:
    return bool(picture.isfinite().all()) and 0 <= float(picture.min()) <= float(picture.max()) <= 1
