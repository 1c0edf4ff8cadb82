"""Convert between pixels and positions on the sky, and read the sky positions of FITS images."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError
from apercu.extras import require_extra
from apercu.images.catalogue.match import LabelledImages
from apercu.images.folder import FolderImages
from apercu.images.formats.decoder_errors import silence_warnings
from apercu.images.formats.fits import SUFFIXES
from apercu.images.formats.fits_hdus import open_fits
from apercu.images.names import has_suffix
from apercu.images.source import ChosenImages, ImageSource

if TYPE_CHECKING:
    from astropy.io.fits import Header

Wcs: TypeAlias = Any  # astropy.wcs.WCS, imported only when needed

POSITION_CARDS = (("RA_OBJ", "DEC_OBJ"), ("RA", "DEC"))
"""Pairs of cards with right ascension and declination in degrees; the first pair is used."""

_SIP_CARD = re.compile(r"[AB]P?_(ORDER|DMAX|\d+_\d+)")
_MARGIN = 1.0  # degrees around a frame in which its projection is trusted


def read_celestial_wcs(header: Header) -> Wcs | None:
    """Read the two sky axes of a header; None if it has none, or damaged ones."""
    from astropy.wcs import WCS
    from astropy.wcs.utils import wcs_to_celestial_frame

    with silence_warnings("astropy"):
        try:
            wcs = WCS(_drop_unused_distortion(header))
            if not wcs.has_celestial:
                return None
            wcs_to_celestial_frame(wcs.celestial)
            return wcs.celestial
        except Exception:  # whatever a header may say of coordinates
            return None


def _drop_unused_distortion(header: Header) -> Header:
    """Return a header without SIP terms if its axes do not say that they have them.

    Programs that resample a frame leave the terms of the old one, which astropy would apply.
    """
    axes = [str(header.get(f"CTYPE{axis}", "")).strip() for axis in (1, 2)]
    if any(axis.endswith("-SIP") for axis in axes):
        return header
    kept = header.copy()
    for card in [card for card in kept if _SIP_CARD.fullmatch(card)]:
        del kept[card]
    return kept


def pixel_to_sky(wcs: Wcs, x: float, y: float) -> tuple[float, float]:
    """Convert a pixel to a position on the sky.

    Args:
        wcs: the coordinates of the image.
        x: column, where the centre of the first pixel is 0.
        y: row, where the centre of the first pixel is 0.

    Returns:
        Right ascension and declination (ICRS) in degrees; NaN outside of the projection.
    """
    with silence_warnings("astropy"):
        try:
            position = wcs.pixel_to_world(x, y).icrs
        except Exception:  # whatever a header may say of coordinates
            return float("nan"), float("nan")
        return float(position.ra.deg), float(position.dec.deg)


def sky_to_pixels(
    wcs: Wcs, ra: NDArray[np.float64], dec: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Convert positions on the sky to pixels of a frame.

    Args:
        wcs: the coordinates of the frame.
        ra: right ascension (ICRS) of each position in degrees.
        dec: declination (ICRS) of each position in degrees.
        size: the (height, width) of the frame.

    Returns:
        Columns and rows, counted from 0; NaN far outside of the frame, where the projection may
        repeat other parts of the sky.
    """
    from astropy.coordinates import SkyCoord

    height, width = size
    x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
    with silence_warnings("astropy"):
        corners = wcs.pixel_to_world([0, 0, width, width], [0, height, 0, height]).icrs
        centre = wcs.pixel_to_world(width / 2, height / 2).icrs
        reach = np.nanmax(corners.separation(centre).deg) + _MARGIN
        positions = SkyCoord(np.nan_to_num(ra), np.nan_to_num(dec), unit="deg")
        near = np.isfinite(ra + dec) & (positions.separation(centre).deg <= reach)
        if near.any():
            x[near], y[near] = wcs.world_to_pixel(positions[near])
    return x, y


class SkyPositions(NamedTuple):
    """Right ascension and declination of each image in degrees; NaN where they are unknown."""

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]


def read_sky_positions(
    source: ImageSource,
    cards: tuple[tuple[str, str], ...] = POSITION_CARDS,
    progress: Callable[[int, int], None] | None = None,
) -> SkyPositions:
    """Read the sky position of the centre of each image from the headers.

    Celestial coordinates are used if the header has them, otherwise a pair of cards.

    Args:
        source: a folder, or some of its images. Images that are not FITS, are damaged, or have no
            position are NaN.
        cards: pairs of cards with degrees, tried in this order.
        progress: called with the number of images that are done, and their total.

    Returns:
        The positions, one per image.

    Raises:
        MissingExtraError: astropy is not installed.
        ImagesError: the images are not those of a folder.
    """
    paths = _find_paths(source)
    require_extra("astro", source.name)
    positions = np.full((len(paths), 2), np.nan)
    for index, path in enumerate(paths):
        if has_suffix(path.name, SUFFIXES):
            positions[index] = read_sky_position(path, cards)
        if progress is not None:
            progress(index + 1, len(paths))
    return SkyPositions(positions[:, 0], positions[:, 1])


def _find_paths(source: ImageSource) -> list[Path]:
    """Return the file of each image; raise ImagesError for other sources than folders."""
    if isinstance(source, FolderImages):
        return [source.path / location.file for location in source.locations]
    if isinstance(source, ChosenImages | LabelledImages):
        paths = _find_paths(source.source)
        return [paths[index] for index in source.indices]
    raise ImagesError(
        f"{source.name}: expected a folder of FITS files, whose headers hold positions on the sky"
    )


def read_sky_position(
    path: Path, cards: tuple[tuple[str, str], ...] = POSITION_CARDS
) -> tuple[float, float]:
    """Read the sky position of the centre of one FITS image.

    Args:
        path: the file.
        cards: pairs of cards with degrees, tried in this order.

    Returns:
        Right ascension and declination in degrees; NaN if unknown, or if the file is damaged.
    """
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
    """Return the first pair of cards that are numbers, in degrees; NaN if there is none."""
    for ra, dec in cards:
        for header in headers:
            pair = header.get(ra), header.get(dec)
            if all(isinstance(card, float | int) and not isinstance(card, bool) for card in pair):
                return float(pair[0]), float(pair[1])
    return float("nan"), float("nan")
