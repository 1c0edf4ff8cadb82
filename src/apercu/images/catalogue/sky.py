"""Pixels of an image and places on the sky, by the celestial coordinates of a FITS header."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

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
