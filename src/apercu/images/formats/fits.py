"""Decode FITS images to raw counts, and order their bands by name; needs the `astro` extra.

Rows keep the order of the file: the first row is at the top.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, suggest_nearest
from apercu.images.formats.fits_hdus import Hdu, count_planes, open_fits
from apercu.images.names import has_suffix

SUFFIXES = frozenset((".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz", ".fts.gz"))

_UNNAMED = frozenset(("", "PRIMARY", "COMPRESSED_IMAGE"))
"""Values of EXTNAME that programs write when the extension has no name."""


class FitsPlanes(NamedTuple):
    """The bands of a FITS file.

    Attributes:
        names: Name of each band; empty if the file has none.
        pixels: Raw counts, `bands × height × width`, NaN where nothing is known.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.float32]


def decode_fits(stream: BytesIO | BufferedReader, name: str) -> FitsPlanes:
    """Decode all images of a FITS file in file order, compressed ones too; a cube gives its planes.

    BSCALE, BZERO and BLANK are applied. Infinite pixels, and pixels at or above the card SATURATE
    of their header, become NaN.

    Args:
        stream: The bytes of the file.
        name: Name of the file, for error messages.

    Returns:
        The bands and their names.

    Raises:
        ImageError: the file is damaged, cut short, too small or too large, has no images, images
            of several sizes or too many bands, or all its pixels are NaN.
    """
    with open_fits(stream, name) as parts:
        pixels = np.concatenate([read_planes(hdu) for hdu in parts.images])
        names = band_names(parts.images)
    if np.isnan(pixels).all():
        raise ImageError(f"{name}: expected pixels, got only NaN; leave this file out")
    return FitsPlanes(names, pixels)


def read_band_names(path: Path) -> tuple[str, ...]:
    """Read the names of the bands from the headers; raises ImageError like `decode_fits`."""
    try:
        with path.open("rb") as stream, open_fits(stream, str(path)) as parts:
            return band_names(parts.images)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def find_first_band_names(
    folder: Path, files: Iterable[str], channels: int
) -> tuple[str, ...] | None:
    """Find the band names of the first FITS file that can give the order of the channels.

    Args:
        folder: The folder of the files.
        files: Paths relative to the folder; those that are not FITS are skipped.
        channels: Number of bands that the file must have, each with a different name.

    Returns:
        The names of the bands; None if no file fits.
    """
    for file in files:
        if not has_suffix(file, SUFFIXES):
            continue
        try:
            names = read_band_names(folder / file)
        except ImageError:  # raised again when the picture is read
            continue
        if len(names) == channels and is_unambiguous(names):
            return names
    return None


def band_names(hdus: list[Hdu]) -> tuple[str, ...]:
    """Return the name of each band: EXTNAME, else FILTER, else BAND; planes of a cube have none."""
    names: list[str] = []
    for hdu in hdus:
        values = (hdu.header.get(card) for card in ("EXTNAME", "FILTER", "BAND"))
        texts = (str(value).strip() for value in values if isinstance(value, str | int | float))
        name = next((text for text in texts if text not in _UNNAMED), "")
        count = count_planes(hdu)
        names += [name] if count == 1 else [""] * count
    return tuple(names)


def read_planes(hdu: Hdu) -> NDArray[np.float32]:
    """Read the raw counts of one image, `bands × height × width`; saturated pixels become NaN."""
    with np.errstate(all="ignore"):
        values: NDArray[np.float32] = (
            np.asarray(hdu.data).reshape(-1, *hdu.shape[-2:]).astype(np.float32)
        )
    values[np.isinf(values)] = np.nan
    limit = hdu.header.get("SATURATE")
    if isinstance(limit, float | int) and limit is not True and 0 < limit < math.inf:
        values[values >= np.float64(limit)] = np.nan
    return values


def check_bands(bands: tuple[str, ...] | None, channels: int) -> None:
    """Raise ConfigError if names cannot be the channels: a wrong number, empty, or repeated.

    Args:
        bands: Names of the bands; None is always valid.
        channels: Number of channels.
    """
    if bands is None:
        return
    if len(bands) != channels:
        raise ConfigError(
            f"bands: expected {channels} names, one per channel, got {len(bands)} "
            f"({', '.join(bands)})"
        )
    if not is_unambiguous(bands):
        raise ConfigError(f"bands: expected each name once, got {', '.join(bands)}")


def is_unambiguous(names: tuple[str, ...]) -> bool:
    """Return whether every band has a name, and no name is repeated.

    >>> is_unambiguous(("g", "r")), is_unambiguous(("g", "g")), is_unambiguous(("g", ""))
    (True, False, False)
    """
    return all(names) and len(set(names)) == len(names) > 0


def order_bands(
    names: tuple[str, ...], bands: tuple[str, ...] | None, channels: int | None, file: str
) -> list[int]:
    """Find the index of each channel's band in a file.

    Args:
        names: Names of the bands in the file.
        bands: Names of the bands in the order of the channels; None keeps the order of the file.
        channels: Number of channels; None accepts any.
        file: Name of the file, for error messages.

    Returns:
        One index per channel.

    Raises:
        ImageError: a band is missing, repeated or has no name, or the number of bands is wrong.

    >>> order_bands(("r", "g", "i"), ("g", "r"), 2, "a.fits")
    [1, 0]
    """
    listed = ", ".join(name or "unnamed" for name in names)
    indices = list(range(len(names)))
    if bands is not None:
        if not all(names):
            raise ImageError(f"{file}: expected bands {', '.join(bands)}, got {listed}; name them")
        indices = [_find_band(names, band, file) for band in bands]
    if channels not in (None, len(indices)):
        raise ImageError(
            f"{file}: expected {channels} bands, one per channel, got {len(indices)} ({listed}); "
            "bands are not converted"
        )
    return indices


def _find_band(names: tuple[str, ...], band: str, file: str) -> int:
    """Return the index of a band; raise ImageError if it is missing or repeated."""
    if band not in names:
        raise ImageError(
            f"{file}: lacks band {band}, has {', '.join(names)}{suggest_nearest(band, names)}"
        )
    if names.count(band) > 1:
        raise ImageError(f"{file}: names {names.count(band)} bands {band}, expected one")
    return names.index(band)
