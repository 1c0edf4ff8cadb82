"""FITS bytes -> planes in raw counts, and the names of their bands; with the `astro` extra.

Rows come as the file has them, the first one first.
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
"""What writers put where nobody named an extension."""


class FitsPlanes(NamedTuple):
    """What a FITS file holds.

    Attributes:
        names: of each band; empty where the file names none.
        pixels: bands × height × width in raw counts, NaN where nothing is known.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.float32]


def decode_fits(stream: BytesIO | BufferedReader, name: str) -> FitsPlanes:
    """Every image in file order, compressed ones too; a cube gives its planes.

    BSCALE, BZERO and BLANK are applied. Infinite pixels and those at or above the card SATURATE of
    their own header become NaN.

    Raises:
        ImageError: damaged, cut short, without images, of several sizes or too many bands, too
            small or too large, or without any pixel that is known.
    """
    with open_fits(stream, name) as parts:
        pixels = np.concatenate([read_planes(hdu) for hdu in parts.images])
        names = band_names(parts.images)
    if np.isnan(pixels).all():
        raise ImageError(f"{name}: expected pixels, got only NaN; leave this file out")
    return FitsPlanes(names, pixels)


def read_band_names(path: Path) -> tuple[str, ...]:
    """Names of a file's bands, from its headers alone; raises ImageError like `decode_fits`."""
    try:
        with path.open("rb") as stream, open_fits(stream, str(path)) as parts:
            return band_names(parts.images)
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def find_first_band_names(
    folder: Path, files: Iterable[str], channels: int
) -> tuple[str, ...] | None:
    """Names of the first FITS file that clearly names as many bands; None where no file does."""
    for file in files:
        if not has_suffix(file, SUFFIXES):
            continue
        try:
            names = read_band_names(folder / file)
        except ImageError:  # told when it is read
            continue
        if len(names) == channels and is_unambiguous(names):
            return names
    return None


def band_names(hdus: list[Hdu]) -> tuple[str, ...]:
    """EXTNAME, else FILTER, else BAND; the planes of a cube have no names."""
    names: list[str] = []
    for hdu in hdus:
        cards = (hdu.header.get(card) for card in ("EXTNAME", "FILTER", "BAND"))
        words = (str(card).strip() for card in cards if isinstance(card, str | int | float))
        name = next((word for word in words if word not in _UNNAMED), "")
        count = count_planes(hdu)
        names += [name] if count == 1 else [""] * count
    return tuple(names)


def read_planes(hdu: Hdu) -> NDArray[np.float32]:
    """The pixels of one image: bands × height × width."""
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
    """Raises ConfigError for names that cannot be the channels: another number, empty, twice."""
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
    """Whether the names tell every band from the others.

    >>> are_clear(("g", "r")), are_clear(("g", "g")), are_clear(("g", ""))
    (True, False, False)
    """
    return all(names) and len(set(names)) == len(names) > 0


def order_bands(
    names: tuple[str, ...], bands: tuple[str, ...] | None, channels: int | None, file: str
) -> list[int]:
    """Indices of the bands in the order of the channels; as they lie where no names are wanted.

    Raises ImageError for a file that lacks a wanted band, names it twice or leaves a band without
    a name, and for another number of bands than channels.

    >>> ordered(("r", "g", "i"), ("g", "r"), 2, "a.fits")
    [1, 0]
    """
    shown = ", ".join(name or "unnamed" for name in names)
    picks = list(range(len(names)))
    if bands is not None:
        if not all(names):
            raise ImageError(f"{file}: expected bands {', '.join(bands)}, got {shown}; name them")
        picks = [_find_band(names, band, file) for band in bands]
    if channels not in (None, len(picks)):
        raise ImageError(
            f"{file}: expected {channels} bands, one per channel, got {len(picks)} ({shown}); "
            "bands are not converted"
        )
    return picks


def _find_band(names: tuple[str, ...], band: str, file: str) -> int:
    if band not in names:
        raise ImageError(
            f"{file}: lacks band {band}, has {', '.join(names)}{suggest_nearest(band, names)}"
        )
    if names.count(band) > 1:
        raise ImageError(f"{file}: names {names.count(band)} bands {band}, expected one")
    return names.index(band)
