"""Pixels of an image and places on the sky, by the celestial coordinates of a FITS header."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError
from apercu.images.catalogue.labels import LabelledImages
from apercu.images.folder import FolderImages
from apercu.images.formats.fits import SUFFIXES
from apercu.images.formats.fits_hdus import open_fits, require_astropy
from apercu.images.names import has_suffix
from apercu.images.source import ChosenImages, ImageSource
from apercu.images.warnings import silence_warnings

if TYPE_CHECKING:
    from astropy.io.fits import Header


Wcs: TypeAlias = Any  # astropy.wcs.WCS, imported only when needed

_MARGIN = 1.0
"""Degrees around a frame within which its projection is asked."""


def read_celestial_wcs(header: Header) -> Wcs | None:
    """The two sky axes of a header; None where it has none, or damaged ones."""
    from astropy.wcs import WCS
    from astropy.wcs.utils import wcs_to_celestial_frame

    with silence_warnings("astropy"):
        try:
            wcs = WCS(header)
            if not wcs.has_celestial:
                return None
            wcs_to_celestial_frame(wcs.celestial)
            return wcs.celestial
        except Exception:  # whatever a header may say of coordinates
            return None


def pixel_to_sky(wcs: Wcs, x: float, y: float) -> tuple[float, float]:
    """Right ascension and declination (ICRS, degrees) of a pixel from 0 on; NaN off the sky."""
    with silence_warnings("astropy"):
        try:
            place = wcs.pixel_to_world(x, y).icrs
        except Exception:  # whatever a header may say of coordinates
            return float("nan"), float("nan")
        return float(place.ra.deg), float(place.dec.deg)


def sky_to_pixels(
    wcs: Wcs, ra: NDArray[np.float64], dec: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixels, counted from 0, of places on the sky (ICRS, degrees).

    Args:
        wcs: of the frame.
        ra: right ascension.
        dec: declination.
        size: height and width of the frame.

    Returns:
        x and y; NaN far away, where a projection may show another part of the sky.
    """
    from astropy.coordinates import SkyCoord

    height, width = size
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    with silence_warnings("astropy"):
        corners = wcs.pixel_to_world([0, 0, width, width], [0, height, 0, height]).icrs
        centre = wcs.pixel_to_world(width / 2, height / 2).icrs
        reach = np.nanmax(corners.separation(centre).deg) + _MARGIN
        places = SkyCoord(np.nan_to_num(ra), np.nan_to_num(dec), unit="deg")
        near = np.isfinite(ra + dec) & (places.separation(centre).deg <= reach)
        if near.any():
            x[near], y[near] = wcs.world_to_pixel(places[near])
    return x, y


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
