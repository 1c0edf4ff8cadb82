"""The images of a pretraining: how they are prepared, which can be read, and their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import torch

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.card import make_input
from apercu.errors import ConfigError, ImageError, ImagesError
from apercu.images import ImageSource, batches
from apercu.images.catalogue import (
    CatalogueMatch,
    label_images,
    match_by_id,
    match_by_position,
    read_catalogue,
    read_sky_positions,
)
from apercu.images.folder import FolderImages
from apercu.images.source import ChosenImages
from apercu.images.stream import list_unread
from apercu.images.stretch import Stretch, StretchMethod, measure_stretch
from apercu.pretraining.pretexts import Clusters, Magnitudes
from apercu.pretraining.settings import AnyPretext
from apercu.pretraining.targets import CatalogueValues, ImageNumbers, PretrainImages, fit_brightness
from apercu.types import Picture

StretchChoice: TypeAlias = Literal["auto", "none"] | StretchMethod
"""`auto` is arcsinh for raw counts, and none for pictures in [0, 1]."""

SAMPLED_IMAGES = 256
"""Images on which a stretch is measured."""
LARGEST_SIZE = 224
"""Largest side of the images in pixels where no size is given."""
BATCH = 64


@dataclass(frozen=True)
class CatalogueJoin:
    """The columns of a catalogue that hold magnitudes, and how its rows are matched with images.

    Args:
        catalogue: CSV, Parquet or FITS table.
        columns: names of the columns of magnitudes.
        id: column of the images' names; None to match positions on the sky.
        radius: radius of a match by position, in arc seconds.
    """

    catalogue: Path
    columns: tuple[str, ...]
    id: str | None
    radius: float

    def __call__(self, source: ImageSource) -> tuple[PretrainImages, int]:
        """Find the images that have at least one magnitude, and count those that have none.

        Args:
            source: images.

        Returns:
            The images with their magnitudes, and the number of images without any.

        Raises:
            ConfigError: the catalogue lacks a column.
            ImagesError: the catalogue cannot be read, or most images are not in it.
        """
        catalogue = read_catalogue(self.catalogue)
        columns = [catalogue.numbers(name) for name in self.columns]
        rows = self._match_rows(source).rows
        values = np.stack(columns, 1)[rows]
        matched = np.flatnonzero((rows >= 0) & np.isfinite(values).any(1))
        if not len(matched):
            raise ImagesError(f"{catalogue.path}: no image of {source.name} has a magnitude")
        chosen = ChosenImages(source, tuple(matched.tolist()))
        magnitudes = CatalogueValues(torch.from_numpy(values[matched]).float())
        return PretrainImages(chosen, magnitudes, self.columns), len(source) - len(matched)

    def _match_rows(self, source: ImageSource) -> CatalogueMatch:
        catalogue = read_catalogue(self.catalogue)
        if self.id is not None:
            return match_by_id(source.names, catalogue, self.id)
        try:
            sky = read_sky_positions(source)
        except ImagesError as error:
            raise ConfigError(f"{error}; name the column of ids with --id") from None
        return match_by_position(*sky, catalogue, self.radius)


def parse_join(
    catalogue: Path | None, columns: str | None, id: str | None, radius: float
) -> CatalogueJoin | None:
    """Parse how a catalogue is joined with images.

    Args:
        catalogue: CSV, Parquet or FITS table; None for no catalogue.
        columns: names of the columns of magnitudes, such as `magr,magi`.
        id: column of the images' names; None to match positions on the sky.
        radius: radius of a match by position, in arc seconds.

    Returns:
        The join; None without a catalogue.

    Raises:
        ConfigError: a part of what is needed is missing.
    """
    if catalogue is None:
        _check_no_columns("--target", columns, id)
        return None
    if columns is None:
        raise ConfigError("target: expected columns of magnitudes, such as --target magr,magi")
    names = tuple(word.strip() for word in columns.split(",") if word.strip())
    if not names:
        raise ConfigError(f"target: expected columns of magnitudes, got {columns!r}")
    return CatalogueJoin(catalogue, names, id, radius)


def parse_labels(
    catalogue: str | Path | None, column: str | None, id: str | None
) -> Callable[[ImageSource], ImageSource]:
    """Parse where images get their classes from.

    Args:
        catalogue: table with classes; None where the images have labels.
        column: column of the classes.
        id: column of the images' names.

    Returns:
        A function that gives the images of a source their classes.

    Raises:
        ConfigError: a part of what is needed is missing.
    """
    if catalogue is None:
        _check_no_columns("--label", column, id)
        return lambda source: source
    if column is None or id is None:
        raise ConfigError("catalogue: expected --label and --id, columns of it")
    table = read_catalogue(catalogue)
    return lambda source: label_images(
        source, match_by_id(source.names, table, id).rows, table, column
    )


def _check_no_columns(option: str, column: str | None, id: str | None) -> None:
    """Raise ConfigError if columns are named where there is no catalogue that has them."""
    if column is not None or id is not None:
        raise ConfigError(
            f"catalogue: expected --catalogue FILE, as {option} and --id name columns of it"
        )


@dataclass(frozen=True)
class InputOptions:
    """Options for the images of a network.

    Args:
        channels: number of bands.
        size: side in pixels; None for the side of the first image, up to `LARGEST_SIZE`.
        stretching: conversion of raw counts to pixels.
        start: input of the network that is the start. Its normalisation is kept where the number of
            bands is the same, and its stretch where `stretching` is `auto`.
    """

    channels: int
    size: int | None = None
    stretching: StretchChoice = "auto"
    start: InputSpec | None = None


def choose_input(source: ImageSource, options: InputOptions) -> InputSpec:
    """Choose how a network's images are prepared, from a sample of them.

    Args:
        source: images.
        options: options that are given.

    Returns:
        The size, bands, normalisation and stretch of the images.

    Raises:
        ImagesError: no image can be read, or they hold raw counts that may not be stretched.
        ClassifierError: the size is impossible.
    """
    sample, channels = list(sample_pictures(source)), options.channels
    if not sample:
        try:
            source[0]
        except ImageError as error:
            raise ImagesError(f"{source.name}: no image can be read; the first: {error}") from None
    raw = any(not _is_in_unit_range(picture) for picture in sample)
    start = options.start if options.start and options.start.channels == channels else None
    if raw and options.stretching == "none":
        raise ImagesError(f"{source.name}: holds raw counts; choose a --stretch")
    height, width = (options.size or min(side, LARGEST_SIZE) for side in sample[0].shape[1:])
    return make_input(
        "images",
        channels=channels,
        size=(height, width),
        mean=start.mean if start else (0.5,) * channels,
        std=start.std if start else (0.25,) * channels,
        bands=source.bands if isinstance(source, FolderImages) else None,
        stretch=_choose_stretch(options.stretching, sample, start, raw=raw),
    )


def _choose_stretch(
    choice: StretchChoice, sample: Sequence[Picture], start: InputSpec | None, *, raw: bool
) -> Stretch | None:
    """Return the stretch that was chosen, measured on a sample; None for pictures in [0, 1]."""
    if choice == "auto":
        if not raw:
            return None
        own = None if start is None else start.stretch
        return own or measure_stretch(sample, "arcsinh")
    return None if choice == "none" else measure_stretch(sample, choice)


class ReadableImages(NamedTuple):
    """The images of a source that can be used, and the names and the errors of the others."""

    source: ImageSource
    errors: list[ImageError]
    left_out: tuple[str, ...] = ()


def find_readable(
    source: ImageSource, backbone: Classifier, progress: Callable[[int, int], None]
) -> ReadableImages:
    """Find the images that can be used, by reading all of them.

    Args:
        source: images.
        backbone: network that prepares the images.
        progress: receives the number of finished images, and that of all.

    Returns:
        The images that can be used, and the names and the errors of the others.

    Raises:
        ImagesError: most of the images cannot be used.
    """
    errors: list[ImageError] = []
    readable: list[int] = []
    for batch in batches(source, backbone.prepare, BATCH, skip=errors.append):
        readable += batch.indices
        progress(len(readable) + len(errors), len(source))
    progress(len(source), len(source))
    if len(errors) > len(readable):
        raise ImagesError(
            f"{source.name}: {len(errors)} of {len(source)} images cannot be used, the first "
            f"because {errors[0]}"
        )
    if not errors:
        return ReadableImages(source, errors)
    usable = ChosenImages(source, tuple(readable))
    return ReadableImages(usable, errors, list_unread(source, readable))


def add_targets(
    source: ImageSource,
    pretext: AnyPretext,
    join: CatalogueJoin | None = None,
    *,
    like: PretrainImages | None = None,
    say: Callable[[str], None] = print,
) -> PretrainImages:
    """Add the targets that a pretext needs to images.

    Magnitudes come from a catalogue, or are measured in the images; clusters need the numbers of
    the images, and the other pretexts no targets.

    Args:
        source: images that can be read.
        pretext: pretext.
        join: catalogue, and how it is joined with the images.
        like: other images, whose measurement of magnitudes is used for these, too.
        say: receives one line of news at a time.

    Returns:
        The images with their targets.

    Raises:
        ConfigError: there is a catalogue, and the pretext needs none.
        ImagesError: no image has a magnitude.
    """
    if not isinstance(pretext, Magnitudes):
        if join is not None:
            raise ConfigError(f"catalogue: {pretext.form} needs none; leave it out")
        return PretrainImages(source, ImageNumbers() if isinstance(pretext, Clusters) else None)
    if join is not None:
        images, missing = join(source)
        if missing:
            say(f"{source.name}: {missing} images have no magnitude in {join.catalogue}")
        return images
    if like is not None:
        return PretrainImages(source, like.targets)
    brightness = fit_brightness(sample_pictures(source), pretext.radius, pretext.faintest)
    return PretrainImages(source, brightness)


def sample_pictures(source: ImageSource) -> Iterable[Picture]:
    """Yield some pictures from all over the source; those that cannot be read are left out."""
    for index in range(0, len(source), max(1, len(source) // SAMPLED_IMAGES)):
        try:
            yield source[index].picture
        except ImageError:
            continue


def _is_in_unit_range(picture: Picture) -> bool:
    """Whether all values are finite and in [0, 1]."""
    return bool(picture.isfinite().all()) and 0 <= float(picture.min()) <= float(picture.max()) <= 1
