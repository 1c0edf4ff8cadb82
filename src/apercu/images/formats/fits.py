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
from apercu.images.formats.fits_hdus import (
    Hdu,
    count_planes,
    height_width,
    open_fits,
)
from apercu.images.limits import check_size
from apercu.images.names import has_suffix

SUFFIXES = frozenset((".fits", ".fit", ".fts", ".fz", ".fits.gz", ".fit.gz", ".fts.gz"))

_UNNAMED = frozenset(("", "PRIMARY", "COMPRESSED_IMAGE"))
"""Values of EXTNAME that programs write when the extension has no name."""


class FitsPlanes(NamedTuple):
    """The bands of a FITS file.

    Attributes:
        names: name of each band; empty if the file has none.
        pixels: raw counts, `bands × height × width`, NaN where nothing is known.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.float32]


def decode_fits(
    stream: BytesIO | BufferedReader,
    name: str,
    bands: tuple[str, ...] | None = None,
    channels: int | None = None,
) -> FitsPlanes:
    """Decode images of a FITS file, compressed ones too; a cube gives its planes.

    BSCALE, BZERO and BLANK are applied. Infinite pixels, and pixels at or above the card SATURATE
    of their header, become NaN.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.
        bands: names or numbers of the bands to read, in the order of the channels; None reads all
            in the order of the file.
        channels: number of channels; None accepts any.

    Returns:
        The bands and their names.

    Raises:
        ImageError: the file is damaged, cut short, too small or too large, has no images, images
            of several sizes or too many bands, lacks a band, or all its pixels are NaN.
    """
    with open_fits(stream, name, fit_together=bands is None) as parts:
        planes = [(hdu, plane) for hdu in parts.images for plane in range(count_planes(hdu))]
        names = band_names(parts.images)
        versions = tuple(str(hdu.header.get("EXTVER", 1)) for hdu, _ in planes)
        chosen = order_bands(names, bands, channels, name, versions)
        used = [hdu for hdu in parts.images if any(planes[index][0] is hdu for index in chosen)]
        _check_chosen(planes, chosen, name)
        read = {id(hdu): read_planes(hdu) for hdu in used}
        pixels = np.stack([read[id(planes[index][0])][planes[index][1]] for index in chosen])
    if np.isnan(pixels).all():
        raise ImageError(f"{name}: expected pixels, got only NaN; leave this file out")
    return FitsPlanes(tuple(names[index] for index in chosen), pixels)


def _check_chosen(planes: list[tuple[Hdu, int]], chosen: list[int], name: str) -> None:
    """Raise ImageError if chosen bands are not of one size, or too large."""
    sizes = [height_width(planes[index][0]) for index in chosen]
    for height, width in sizes:
        check_size(name, height, width, len(chosen))
        if (height, width) != sizes[0]:
            raise ImageError(
                f"{name}: expected bands of one size, got {sizes[0][1]} × {sizes[0][0]} and "
                f"{width} × {height} (width × height)"
            )


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
        folder: the folder of the files.
        files: paths relative to the folder; those that are not FITS are skipped.
        channels: number of bands that the file must have, each with a different name.

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
    header = hdu.header.copy()  # astropy removes cards from it when it reads the pixels
    with np.errstate(all="ignore"):
        stored = np.asarray(hdu.data).reshape(-1, *hdu.shape[-2:])
        values: NDArray[np.float32] = stored.astype(np.float32)
    values[np.isinf(values)] = np.nan
    card = header.get("BLANK", header.get("ZBLANK"))
    blank = _read_blank(card)
    is_passed_over = blank == 0 or type(card) is not int  # by astropy
    if blank is not None and is_passed_over and int(header.get("BITPIX", 0)) > 0:
        scaled = blank * float(header.get("BSCALE", 1)) + float(header.get("BZERO", 0))
        values[stored == np.asarray(scaled).astype(stored.dtype)] = np.nan
    limit = header.get("SATURATE")
    if isinstance(limit, float | int) and limit is not True and 0 < limit < math.inf:
        values[values >= np.float64(limit)] = np.nan
    return values


def _read_blank(card: object) -> int | None:
    """Return the stored value of unknown pixels; some write it as a float or a text."""
    try:
        number = float(card) if isinstance(card, int | float | str) else math.nan
    except ValueError:
        return None
    return int(number) if type(card) is not bool and number.is_integer() else None


def check_bands(bands: tuple[str, ...] | None, channels: int) -> None:
    """Raise ConfigError if names cannot be the channels: a wrong number, empty, or repeated.

    Args:
        bands: names of the bands; one alone gives every channel, and None is always valid.
        channels: number of channels.
    """
    if bands is None:
        return
    if len(bands) not in (1, channels):
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
    names: tuple[str, ...],
    bands: tuple[str, ...] | None,
    channels: int | None,
    file: str,
    versions: tuple[str, ...] = (),
) -> list[int]:
    """Find the index of each channel's band in a file.

    Args:
        names: names of the bands in the file.
        bands: names of the bands in the order of the channels: `SCI`, `SCI:2` of version 2
            (EXTVER), or the number of a band, from 1. One alone gives every channel; None keeps
            the order of the file.
        channels: number of channels; None accepts any.
        file: name of the file, for error messages.
        versions: EXTVER of each band in the file.

    Returns:
        One index per channel.

    Raises:
        ImageError: a band is missing, repeated or has no name, or the number of bands is wrong.

    >>> order_bands(("r", "g", "i"), ("g", "r"), 2, "a.fits")
    [1, 0]
    >>> order_bands(("SCI", "SCI"), ("SCI:2",), 3, "a.fits", ("1", "2"))
    [1, 1, 1]
    """
    listed = ", ".join(name or "unnamed" for name in names)
    indices = list(range(len(names)))
    if bands is not None:
        if not all(names) and not all(band.isdecimal() for band in bands):
            raise ImageError(f"{file}: expected bands {', '.join(bands)}, got {listed}; name them")
        indices = [_find_band(names, versions, band, file) for band in bands]
        if channels is not None and len(indices) == 1:
            indices *= channels
    if channels not in (None, len(indices)):
        raise ImageError(
            f"{file}: expected {channels} bands, one per channel, got {len(indices)} ({listed}); "
            "bands are not converted; name those to read"
        )
    return indices


def _find_band(names: tuple[str, ...], versions: tuple[str, ...], band: str, file: str) -> int:
    """Return the index of a band; raise ImageError if it is missing or repeated."""
    name, _, version = band.partition(":")
    matches = [index for index, each in enumerate(names) if each == band]
    if not matches and version and versions:
        pairs = enumerate(zip(names, versions, strict=True))
        matches = [index for index, pair in pairs if pair == (name, version)]
    if not matches and band.isdecimal() and 1 <= int(band) <= len(names):
        matches = [int(band) - 1]
    if not matches:
        listed = ", ".join(name or "unnamed" for name in names)
        raise ImageError(
            f"{file}: lacks band {band}, has {listed}{suggest_nearest(band, filter(None, names))}"
        )
    if len(matches) > 1:
        raise ImageError(
            f"{file}: names {len(matches)} bands {band}, expected one; "
            f"add a version, such as {band}:2"
        )
    return matches[0]
