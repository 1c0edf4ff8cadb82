"""Read large FITS frames, and cut stamps from their bands."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError
from apercu.images.catalogue.sky import Wcs, pixel_to_sky, read_celestial_wcs, sky_to_pixels
from apercu.images.formats.decoder_errors import silence_warnings
from apercu.images.formats.fits import read_planes
from apercu.images.formats.fits_hdus import Hdu, check_bands_fit, height_width, open_fits

if TYPE_CHECKING:
    from astropy.io.fits import Header

KEPT_CARDS = ("EXTNAME", "FILTER", "BAND", "BUNIT")
"""Cards that are copied from a frame to its stamps, besides the coordinates."""


_OVERLAP = 0.9  # chips of a mosaic lie at least so many of their sides apart


class Band(NamedTuple):
    """One image of a frame or of a stamp.

    Attributes:
        header: the header of the frame.
        wcs: the two sky axes; None if the header has none.
        pixels: raw counts, `planes × height × width`, NaN where nothing is known.
    """

    header: Header
    wcs: Wcs | None
    pixels: NDArray[np.float32]


def read_fields(path: Path) -> Iterator[tuple[Band, ...]]:
    """Yield the bands of each field of the sky in a FITS file.

    Images of the same part of the sky, and images without coordinates, are bands of one field;
    the chips of a mosaic are fields of their own.

    Args:
        path: the file.

    Yields:
        The bands of a field, all of one size; only one field is in memory.

    Raises:
        ImageError: as in `read_picture`.
    """
    try:
        with path.open("rb") as stream, open_fits(stream, str(path), fit_together=False) as parts:
            for hdus in _group_by_field(parts.images):
                check_bands_fit([hdu for hdu, _ in hdus], str(path))
                yield tuple(Band(hdu.header.copy(), wcs, read_planes(hdu)) for hdu, wcs in hdus)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def _group_by_field(images: list[Hdu]) -> list[list[tuple[Hdu, Wcs | None]]]:
    """Group images by the part of the sky that they show."""
    fields: list[list[tuple[Hdu, Wcs | None]]] = []
    for hdu in images:
        wcs = read_celestial_wcs(hdu.header)
        if not fields:
            fields.append([(hdu, wcs)])
            continue
        places = [place for place in fields if wcs is None or _shows_same_sky(place[0], hdu, wcs)]
        if places:
            (fields[-1] if wcs is None else places[0]).append((hdu, wcs))
        else:
            fields.append([(hdu, wcs)])
    return fields


def _shows_same_sky(first: tuple[Hdu, Wcs | None], hdu: Hdu, wcs: Wcs) -> bool:
    """Return whether an image overlaps the first one of a field, by more than the margins."""
    height, width = height_width(first[0])
    if first[1] is None:
        return True
    if height_width(hdu) != (height, width):
        return False
    ra, dec = pixel_to_sky(wcs, (width - 1) / 2, (height - 1) / 2)
    x, y = sky_to_pixels(first[1], np.array([ra]), np.array([dec]), (height, width))
    across, down = abs(x[0] - (width - 1) / 2), abs(y[0] - (height - 1) / 2)
    return bool(across < _OVERLAP * width and down < _OVERLAP * height)


def locate_in_bands(
    frame: tuple[Band, ...], positions: NDArray[np.float64], path: Path
) -> list[NDArray[np.float64]]:
    """Convert sky positions to pixels of each band.

    Args:
        frame: the bands; a band without coordinates takes the pixels of the first.
        positions: right ascension and declination in degrees, `objects × 2`.
        path: the file of the frame, for error messages.

    Returns:
        Columns and rows from 0, `objects × 2`, for each band.

    Raises:
        ImagesError: the first band has no celestial coordinates.
    """
    if frame[0].wcs is None:
        raise ImagesError(
            f"{path}: has no celestial coordinates; "
            "give the positions of the objects in pixels (--x and --y)"
        )
    pixels: list[NDArray[np.float64]] = []
    for band in frame:
        if band.wcs is None:
            pixels.append(pixels[0])
            continue
        size = band.pixels.shape[1], band.pixels.shape[2]
        x, y = sky_to_pixels(band.wcs, positions[:, 0], positions[:, 1], size)
        pixels.append(np.stack((x, y), axis=1))
    return pixels


def cut_band(band: Band, centre: NDArray[np.float64], size: int) -> Band:
    """Cut a square from a band.

    Args:
        band: the band of a frame.
        centre: column and row of the centre, from 0.
        size: side of the square in pixels.

    Returns:
        The square with its coordinates; NaN beyond the frame.
    """
    from astropy.nddata import Cutout2D, NoOverlapError

    planes: list[NDArray[np.float32]] = []
    wcs = band.wcs
    with silence_warnings("astropy"):
        for plane in band.pixels:
            try:
                cutout = Cutout2D(
                    plane, tuple(centre), size, wcs=band.wcs, mode="partial", fill_value=np.nan
                )
            except (NoOverlapError, ValueError):  # this band shows another part of the sky
                return Band(band.header, None, np.full((1, size, size), np.nan, np.float32))
            planes.append(cutout.data)
            wcs = cutout.wcs
    return Band(band.header, wcs, np.stack(planes))


def encode_fits(stamp: list[Band], cards: dict[str, float | str]) -> bytes:
    """Encode a stamp as a FITS file with one image per band.

    Args:
        stamp: the bands.
        cards: further cards of the first header.

    Returns:
        The bytes of the file.
    """
    from astropy.io import fits

    parts: list[fits.PrimaryHDU | fits.ImageHDU] = []
    with silence_warnings("astropy"):
        for band in stamp:
            header = fits.Header() if band.wcs is None else band.wcs.to_header(relax=True)
            header.update({card: band.header[card] for card in KEPT_CARDS if card in band.header})
            if not parts:
                header.update(cards)
            pixels = band.pixels[0] if len(band.pixels) == 1 else band.pixels
            parts.append((fits.ImageHDU if parts else fits.PrimaryHDU)(pixels, header))
        stream = BytesIO()
        fits.HDUList(parts).writeto(stream)
    return stream.getvalue()
