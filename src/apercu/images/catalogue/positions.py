"""Where on the sky the FITS images of a folder lie, by their headers alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError
from apercu.images.catalogue.labelled import LabelledImages
from apercu.images.catalogue.sky import pixel_to_sky, read_celestial_wcs
from apercu.images.folder import FolderImages
from apercu.images.formats.fits import SUFFIXES
from apercu.images.formats.fits_hdus import open_fits, require_astropy
from apercu.images.names import has_suffix
from apercu.images.source import ChosenImages, ImageSource

if TYPE_CHECKING:
    from astropy.io.fits import Header

POSITION_CARDS = (("RA_OBJ", "DEC_OBJ"), ("RA", "DEC"))
"""Cards of the object's right ascension and declination in degrees, the first pair found."""


class SkyPositions(NamedTuple):
    """Right ascension and declination of each image in degrees, NaN where not known."""

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


def read_sky_positions(
    source: ImageSource,
    cards: tuple[tuple[str, str], ...] = POSITION_CARDS,
    progress: Callable[[int, int], None] | None = None,
) -> SkyPositions:
    """The centre of each image on the sky, by its celestial coordinates, else by its cards.

    Args:
        source: a folder, or some of its images, chosen or labelled; those that are no FITS,
            damaged, or tell no place are NaN.
        cards: names of two cards with degrees, tried in this order.
        progress: told how many images of how many are done.

    Raises:
        ImageError: astropy is not installed.
        ImagesError: the images are not those of a folder.
    """
    paths = _find_paths(source)
    require_astropy(source.name)
    places = np.full((len(paths), 2), np.nan)
    for index, path in enumerate(paths):
        if has_suffix(path.name, SUFFIXES):
            places[index] = read_sky_position(path, cards)
        if progress is not None:
            progress(index + 1, len(paths))
    return SkyPositions(places[:, 0], places[:, 1])


def _find_paths(source: ImageSource) -> list[Path]:
    """The file of each image."""
    if isinstance(source, FolderImages):
        return [source.path / place.file for place in source.locations]
    if isinstance(source, ChosenImages | LabelledImages):
        indices = source.indices if isinstance(source, ChosenImages) else source.indices
        paths = _find_paths(source.source)
        return [paths[index] for index in indices]
    raise ImagesError(f"{source.name}: only a folder of FITS tells positions on the sky")


def read_sky_position(
    path: Path, cards: tuple[tuple[str, str], ...] = POSITION_CARDS
) -> tuple[float, float]:
    """The same of one FITS file; NaN for one that is damaged, which is told when it is read."""
    try:
        with path.open("rb") as stream, open_fits(stream, str(path)) as parts:
            first = parts.images[0]
            wcs = read_celestial_wcs(first.header)
            if wcs is not None:
                height, width = first.shape[-2:]
                return pixel_to_sky(wcs, (width - 1) / 2, (height - 1) / 2)
            return _read_position_cards((first.header, parts.primary), cards)
    except (ImageError, OSError):
        return float("nan"), float("nan")


def _read_position_cards(
    headers: tuple[Header, ...], cards: tuple[tuple[str, str], ...]
) -> tuple[float, float]:
    for ra, dec in cards:
        for header in headers:
            found = header.get(ra), header.get(dec)
            if all(isinstance(one, float | int) and not isinstance(one, bool) for one in found):
                return float(found[0]), float(found[1])
    return float("nan"), float("nan")
