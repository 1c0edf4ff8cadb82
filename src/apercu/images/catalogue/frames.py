"""Large FITS frames, and stamps that are cut from their bands."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError
from apercu.images.catalogue.sky import Wcs, read_celestial_wcs, sky_to_pixels
from apercu.images.formats.fits import read_planes
from apercu.images.formats.fits_hdus import open_fits
from apercu.images.warnings import silence_warnings

if TYPE_CHECKING:
    from astropy.io.fits import Header

KEPT_CARDS = ("EXTNAME", "FILTER", "BAND", "BUNIT")
"""Cards that a stamp takes from its frame, beside the coordinates."""


class Band(NamedTuple):
    """One image of a frame, or of a stamp.

    Attributes:
        header: as it was read.
        wcs: the two axes of the sky; None where the header has none.
        pixels: planes × height × width, NaN where nothing is known.
    """

    header: Header
    wcs: Wcs | None
    pixels: NDArray[np.float32]


def read_frame(path: Path) -> tuple[Band, ...]:
    """All images of a FITS file; raises ImageError like `read_picture`."""
    try:
        with path.open("rb") as stream, open_fits(stream, str(path)) as parts:
            return tuple(
                Band(hdu.header.copy(), read_celestial_wcs(hdu.header), read_planes(hdu))
                for hdu in parts.images
            )
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def locate_in_bands(
    frame: tuple[Band, ...], places: NDArray[np.float64], path: Path
) -> list[NDArray[np.float64]]:
    """Places on the sky as x and y from 0 in each band; one without coordinates lies on the first.

    Raises:
        ImagesError: the first band has no celestial coordinates.
    """
    if frame[0].wcs is None:
        raise ImagesError(
            f"{path}: has no celestial coordinates; say where objects are by --x and --y"
        )
    found: list[NDArray[np.float64]] = []
    for band in frame:
        size = band.pixels.shape[1], band.pixels.shape[2]
        pixels = (
            found[0]
            if band.wcs is None
            else np.stack(sky_to_pixels(band.wcs, places[:, 0], places[:, 1], size), axis=1)
        )
        found.append(pixels)
    return found


def cut_band(band: Band, place: NDArray[np.float64], size: int) -> Band:
    """A square around x and y, NaN beyond the frame; it keeps its coordinates."""
    from astropy.nddata import Cutout2D, NoOverlapError

    cuts: list[NDArray[np.float32]] = []
    wcs = band.wcs
    with silence_warnings("astropy"):
        for plane in band.pixels:
            try:
                one = Cutout2D(
                    plane, tuple(place), size, wcs=band.wcs, mode="partial", fill_value=np.nan
                )
            except (NoOverlapError, ValueError):  # this band shows another part of the sky
                return Band(band.header, None, np.full((1, size, size), np.nan, np.float32))
            cuts.append(one.data)
            wcs = one.wcs
    return Band(band.header, wcs, np.stack(cuts))


def encode_fits(stamp: list[Band], cards: dict[str, float | str]) -> bytes:
    """A FITS file of one image per band; `cards` go into its first header."""
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
