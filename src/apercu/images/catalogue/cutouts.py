"""Stamps around the objects of a catalogue, cut from frames; with the `astro` extra."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, ImagesError, InputError
from apercu.images.catalogue.frames import Band, cut_band, encode_fits, locate_in_bands, read_frame
from apercu.images.catalogue.match import find_rows_by_id
from apercu.images.catalogue.sky import Wcs, pixel_to_sky
from apercu.images.catalogue.table import Catalogue

MAX_MISSING_FRACTION = 0.5
"""Of a stamp's pixels that may be missing."""


class CutoutStatus(StrEnum):
    """What became of an object."""

    CUT = "cut"
    OUTSIDE = "outside"
    MISSING = "mostly without pixels"
    NOWHERE = "without a position"


@dataclass(frozen=True, eq=False)
class CatalogueObjects:
    """What to cut around."""

    ids: tuple[str, ...]
    """One for each object, all different."""
    positions: NDArray[np.float64] = field(repr=False)
    """Objects × 2: right ascension and declination in degrees, or x and y from 0; NaN unknown."""
    in_pixels: bool = False


def read_objects(
    catalogue: Catalogue,
    columns: tuple[str, str],
    *,
    in_pixels: bool = False,
    ids: str | None = None,
) -> CatalogueObjects:
    """The objects of a catalogue.

    Args:
        catalogue: a row for each object.
        columns: of right ascension and declination in degrees, or of x and y, where the centre of
            the first pixel is 1, 1 as in FITS.
        in_pixels: whether they are x and y.
        ids: column of the ids; None takes the number of the row.

    Raises:
        ConfigError: there is no such column, or an id is missing or stands in two rows.
    """
    places = np.stack([catalogue.numbers(column, missing=()) for column in columns], axis=1)
    if in_pixels:
        places = places - 1
    else:
        on_sky = (np.abs(places[:, 1]) <= 90) & (places[:, 0] >= -180) & (places[:, 0] <= 360)
        places[~on_sky] = np.nan
    if ids is None:
        return CatalogueObjects(tuple(map(str, range(len(catalogue)))), places, in_pixels)
    rows = find_rows_by_id(catalogue, ids)
    if len(rows) < len(catalogue):
        raise ConfigError(
            f"{catalogue.path}: expected an id in every row of {ids}, "
            f"got none in {len(catalogue) - len(rows)}"
        )
    return CatalogueObjects(tuple(rows), places, in_pixels)


def cut_stamps(
    frames: Sequence[Path],
    objects: CatalogueObjects,
    size: int,
    keep: Callable[[int, bytes], object],
    progress: Callable[[int, int], None] = lambda done, total: None,
    skip: Callable[[InputError], object] | None = None,
) -> list[CutoutStatus]:
    """Cuts a stamp around each object from the first frame that shows enough of it.

    Args:
        frames: FITS files, each with an image for each band.
        objects: what to cut around.
        size: side of a stamp in pixels.
        keep: given the index of an object and its stamp as a FITS file.
        progress: told how many objects of how many have been looked for in all frames.
        skip: told why one of several frames cannot be used; None stops at the first.

    Returns:
        What became of each object.

    Raises:
        ImageError: a frame is damaged.
        ImagesError: a frame has no celestial coordinates, and the objects are on the sky; or none
            of several frames can be used.
        ConfigError: x and y of several frames.
    """
    if objects.in_pixels and len(frames) != 1:
        raise ConfigError(
            f"x and y: expected one frame, got {len(frames)}; give right ascension and declination"
        )
    known = [bool(np.isfinite(place).all()) for place in objects.positions]
    fates = [CutoutStatus.OUTSIDE if one else CutoutStatus.NOWHERE for one in known]
    total = len(frames) * len(fates)
    wrong: list[InputError] = []
    for number, path in enumerate(frames):
        waiting = [
            i
            for i, fate in enumerate(fates)
            if fate in (CutoutStatus.OUTSIDE, CutoutStatus.MISSING)
        ]
        try:
            shown = _search_frame(path, objects, waiting)
        except (ImageError, ImagesError) as error:
            if skip is None or len(frames) == 1:
                raise
            skip(error)
            wrong.append(error)
            continue
        for index, stamp in _cut_frame(shown, objects, size):
            fates[index] = CutoutStatus.MISSING if stamp is None else CutoutStatus.CUT
            if stamp is not None:
                keep(index, stamp)
            progress(number * len(fates) + index, total)
    progress(total, total)
    if wrong and len(wrong) == len(frames):
        raise ImagesError(f"none of {len(frames)} frames can be used, the first because {wrong[0]}")
    return fates


class _FrameSearch(NamedTuple):
    """A frame, which objects are looked for in it, and where they lie in each of its bands."""

    frame: tuple[Band, ...]
    waiting: list[int]
    pixels: list[NDArray[np.float64]]


def _search_frame(path: Path, objects: CatalogueObjects, waiting: list[int]) -> _FrameSearch:
    frame, places = read_frame(path), objects.positions[waiting]
    known = [places] * len(frame) if objects.in_pixels else locate_in_bands(frame, places, path)
    return _FrameSearch(frame, waiting, known)


def _cut_frame(
    shown: _FrameSearch, objects: CatalogueObjects, size: int
) -> Iterator[tuple[int, bytes | None]]:
    """The objects inside a frame; None where too much of the stamp is missing."""
    frame, waiting, pixels = shown
    height, width = frame[0].pixels.shape[1:]
    for number, index in enumerate(waiting):
        x, y = pixels[0][number]
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            continue
        stamp = [cut_band(band, at[number], size) for band, at in zip(frame, pixels, strict=True)]
        missing = np.concatenate([np.isnan(band.pixels) for band in stamp]).mean()
        if missing > MAX_MISSING_FRACTION:
            yield index, None
        else:
            yield index, encode_fits(stamp, _header_cards(objects, index, frame[0].wcs))


def _header_cards(objects: CatalogueObjects, index: int, wcs: Wcs | None) -> dict[str, float | str]:
    """The object's id and place, as the stamp's header has them."""
    shown = "".join(letter if " " <= letter <= "~" else "?" for letter in objects.ids[index])
    x, y = (float(number) for number in objects.positions[index])
    if objects.in_pixels and wcs is None:
        return {"OBJID": shown}
    ra, dec = pixel_to_sky(wcs, x, y) if objects.in_pixels else (x % 360, y)
    known = {"RA": ra, "DEC": dec} if np.isfinite(ra + dec) else {}
    return {"OBJID": shown, **known}
