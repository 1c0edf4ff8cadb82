"""Cut stamps around the objects of a catalogue from frames; needs the `astro` extra."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, ImagesError, InputError
from apercu.images.catalogue.frames import Band, cut_band, encode_fits, locate_in_bands, read_fields
from apercu.images.catalogue.match import find_rows_by_id, read_classes
from apercu.images.catalogue.sky import Wcs, pixel_to_sky
from apercu.images.catalogue.table import Catalogue, read_catalogue
from apercu.images.names import make_file_stem
from apercu.io import create_folder, format_csv_rows, write_file
from apercu.log import warn
from apercu.progress import ProgressCallback, ignore_progress
from apercu.run_record import lock_output

LABELS = "labels.csv"
"""Table of the classes of the stamps."""
MAX_MISSING_FRACTION = 0.5
"""Largest fraction of the pixels of a stamp that may be missing."""


class CutoutStatus(StrEnum):
    """Whether an object was cut, or why not."""

    CUT = "cut"
    OUTSIDE = "outside"
    MISSING = "mostly without pixels"
    UNKNOWN_POSITION = "without a position"


@dataclass(frozen=True)
class StampSummary:
    """What became of the objects of a catalogue.

    Attributes:
        statuses: the status of each object.
        labelled: number of stamps in `labels.csv`; None where no column of classes was named.
        errors: why frames were left out.
    """

    statuses: tuple[CutoutStatus, ...]
    labelled: int | None
    errors: tuple[InputError, ...]

    @property
    def cut(self) -> int:
        """Return how many stamps were cut."""
        return self.statuses.count(CutoutStatus.CUT)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self)!r})"

    def __str__(self) -> str:
        counts = Counter(str(each) for each in self.statuses if each is not CutoutStatus.CUT)
        text = f"{self.cut} stamp{'s' * (self.cut != 1)}, {counts.total()} skipped"
        if counts:
            text += f" ({', '.join(f'{n} {status}' for status, n in sorted(counts.items()))})"
        if self.labelled is not None:
            is_whole = self.labelled == self.cut
            text += ", labelled" if is_whole else f", {self.labelled} of them in {LABELS}"
        return text


@dataclass(frozen=True, eq=False)
class CatalogueObjects:
    """The objects to cut around."""

    ids: tuple[str, ...]
    """Id of each object, all different."""
    positions: NDArray[np.float64] = field(repr=False)
    """Right ascension and declination in degrees, or x and y from 0, `objects × 2`; or NaN."""
    in_pixels: bool = False
    """Whether the positions are x and y in pixels."""


def read_objects(
    catalogue: Catalogue,
    columns: tuple[str, str],
    *,
    in_pixels: bool = False,
    ids: str | None = None,
) -> CatalogueObjects:
    """Read the objects of a catalogue.

    Args:
        catalogue: a catalogue with one row per object.
        columns: names of the columns of right ascension and declination in degrees, or of x and
            y, where the centre of the first pixel is 1, 1 as in FITS.
        in_pixels: whether the columns are x and y.
        ids: name of the column of ids; None takes the index of the row.

    Returns:
        The objects.

    Raises:
        ConfigError: there is no such column, or an id is missing or stands in two rows.
    """
    positions = np.stack([catalogue.numbers(column, missing=()) for column in columns], axis=1)
    if in_pixels:
        positions = positions - 1
    else:
        ra, dec = positions.T
        positions[~((np.abs(dec) <= 90) & (ra >= -180) & (ra <= 360))] = np.nan
    if ids is None:
        return CatalogueObjects(tuple(map(str, range(len(catalogue)))), positions, in_pixels)
    rows = find_rows_by_id(catalogue, ids)
    if len(rows) < len(catalogue):
        raise ConfigError(
            f"{catalogue.path}: expected an id in every row of {ids}, "
            f"got none in {len(catalogue) - len(rows)}"
        )
    return CatalogueObjects(tuple(rows), positions, in_pixels)


def cut_stamps(
    frames: Sequence[Path],
    objects: CatalogueObjects,
    size: int,
    keep: Callable[[int, bytes], object],
    progress: Callable[[int, int], None] = lambda done, total: None,
    skip: Callable[[InputError], object] | None = None,
) -> list[CutoutStatus]:
    """Cut a stamp around each object from the first frame that has enough of its pixels.

    Args:
        frames: FITS files, each with one image per band.
        objects: the objects to cut around.
        size: side of a stamp in pixels.
        keep: called with the index of an object and its stamp as the bytes of a FITS file.
        progress: called with the number of objects that are done, over all frames, and the total.
        skip: called with the error of a frame that cannot be used, if there are several; None
            raises the error.

    Returns:
        The status of each object.

    Raises:
        ImageError: a frame is damaged.
        ImagesError: a frame has no celestial coordinates, and the objects are on the sky; or none
            of several frames can be used.
        ConfigError: the objects are in pixels, and there are several frames.
    """
    if objects.in_pixels and len(frames) != 1:
        raise ConfigError(
            f"x and y: expected one frame, got {len(frames)}; give right ascension and declination"
        )
    statuses = [
        CutoutStatus.OUTSIDE if np.isfinite(position).all() else CutoutStatus.UNKNOWN_POSITION
        for position in objects.positions
    ]
    total = len(frames) * len(statuses)
    errors: list[InputError] = []
    for number, path in enumerate(frames):
        try:
            for index, stamp in _cut_frame(path, objects, statuses, size):
                statuses[index] = CutoutStatus.MISSING if stamp is None else CutoutStatus.CUT
                if stamp is not None:
                    keep(index, stamp)
                progress(number * len(statuses) + index, total)
        except (ImageError, ImagesError) as error:
            if skip is None or len(frames) == 1:
                raise
            skip(error)
            errors.append(error)
    progress(total, total)
    if errors and len(errors) == len(frames):
        raise ImagesError(
            f"none of {len(frames)} frames can be used, the first because {errors[0]}"
        )
    return statuses


def write_stamps(
    frames: Sequence[str | Path],
    catalogue: str | Path,
    out: str | Path,
    size: int = 63,
    *,
    ra: str | None = None,
    dec: str | None = None,
    x: str | None = None,
    y: str | None = None,
    ids: str | None = None,
    label: str | None = None,
    group: str | None = None,
    progress: ProgressCallback = ignore_progress,
) -> StampSummary:
    """Cut a stamp around each object of a catalogue, and write a folder of images with labels.

    A frame that cannot be used is left out with a warning, while there are others.

    Args:
        frames: FITS files, each with one image per band.
        catalogue: the objects, CSV, Parquet or a FITS table.
        out: folder for one FITS file per stamp, and for `labels.csv`.
        size: side of a stamp in pixels.
        ra: column of the right ascension in degrees; `ra` when None.
        dec: column of the declination in degrees; `dec` when None.
        x: column of the pixel along a row, of which the first is 1, instead of `ra` and `dec`.
        y: column of the row of pixels, of which the first is 1.
        ids: column of the names of the stamps; the numbers of the rows when None.
        label: column of the classes, which are written to `labels.csv`.
        group: column whose values say which stamps belong together, such as a field or a night. It
            is written to `labels.csv` under its own name, so that a training can keep them apart.
        progress: receives how many objects are done.

    Returns:
        What became of the objects.

    Raises:
        ConfigError: a column is missing, two ids give the same file, or the folder has labels
            already, and none are asked for.
        ImageError: the only frame is damaged.
        ImagesError: no stamp can be cut.
        OutputError: the folder cannot be written.
        RunError: another process writes it.
    """
    if label is None and group is not None:
        raise ConfigError("group: is written beside the classes; name their column as label, too")
    columns, in_pixels = _choose_columns((ra, dec), (x, y))
    folder, table = Path(out), read_catalogue(Path(catalogue))
    objects = read_objects(table, columns, in_pixels=in_pixels, ids=ids)
    texts = [read_classes(table, column) for column in (label, group) if column is not None]
    files = _make_file_names(objects.ids)
    if label is None and (folder / LABELS).exists():
        raise ConfigError(f"{folder}: has a {LABELS} already; give a label, or another folder")
    errors: list[InputError] = []
    with create_folder(folder), lock_output(folder):
        statuses = cut_stamps(
            [Path(frame) for frame in frames],
            objects,
            size,
            lambda index, stamp: write_file(folder / files[index], stamp),
            lambda done, total: progress("objects", done, total),
            errors.append,
        )
        for error in errors:
            warn(str(error))
        cut = [index for index, status in enumerate(statuses) if status is CutoutStatus.CUT]
        if not cut:
            raise ImagesError(
                f"{catalogue}: {StampSummary(tuple(statuses), None, ())}; check that these columns "
                "hold positions in these frames"
            )
        labelled = [index for index in cut if label is not None and texts[0][index] is not None]
        if label is not None:
            rows = [
                (files[index], *(column[index] or "" for column in texts)) for index in labelled
            ]
            titles = ("file", "class", *([] if group is None else [group]))
            write_file(folder / LABELS, format_csv_rows([titles, *rows]))
    return StampSummary(tuple(statuses), None if label is None else len(labelled), tuple(errors))


def _choose_columns(
    sky: tuple[str | None, str | None], pixels: tuple[str | None, str | None]
) -> tuple[tuple[str, str], bool]:
    """Return the two columns of the positions, and whether they are pixels."""
    if any(pixels):
        if any(sky) or not all(pixels):
            raise ConfigError("x and y: expected both, without ra and dec")
        return (str(pixels[0]), str(pixels[1])), True
    return (sky[0] or "ra", sky[1] or "dec"), False


def _make_file_names(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return a file name for each id; raise ConfigError if two ids give the same."""
    files = tuple(f"{make_file_stem(id)}.fits" for id in ids)
    name, times = Counter(file.casefold() for file in files).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"ids: {times} of them give the file {name}; choose another column")
    return files


class _FieldSearch(NamedTuple):
    """A field of a frame, and the objects to look for in it.

    Attributes:
        images: the bands.
        indices: index of each object that has no stamp yet.
        pixels: column and row of each of them, `objects × 2`, for each band.
    """

    images: tuple[Band, ...]
    indices: list[int]
    pixels: list[NDArray[np.float64]]


def _search_frame(
    path: Path, objects: CatalogueObjects, statuses: list[CutoutStatus]
) -> Iterator[_FieldSearch]:
    """Read the fields of a frame, and convert the positions of objects without a stamp."""
    fields = read_fields(path)
    if objects.in_pixels:
        chips = list(fields)
        if len(chips) > 1:
            raise ImagesError(
                f"{path}: has {len(chips)} chips, so x and y could mean any of them; give "
                "right ascension and declination"
            )
        fields = iter(chips)
    for bands in fields:
        searched = (CutoutStatus.OUTSIDE, CutoutStatus.MISSING)
        indices = [index for index, status in enumerate(statuses) if status in searched]
        positions = objects.positions[indices]
        if objects.in_pixels:
            yield _FieldSearch(bands, indices, [positions] * len(bands))
        else:
            yield _FieldSearch(bands, indices, locate_in_bands(bands, positions, path))


def _cut_frame(
    path: Path, objects: CatalogueObjects, statuses: list[CutoutStatus], size: int
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the index and the stamp of each object in a frame, field by field."""
    for search in _search_frame(path, objects, statuses):
        yield from _cut_field(search, objects, size)


def _cut_field(
    search: _FieldSearch, objects: CatalogueObjects, size: int
) -> Iterator[tuple[int, bytes | None]]:
    """Yield the index and the stamp of each object in a field; None if too much is missing."""
    images, indices, pixels = search
    height, width = images[0].pixels.shape[1:]
    for number, index in enumerate(indices):
        x, y = pixels[0][number]
        if not (-0.5 <= x < width - 0.5 and -0.5 <= y < height - 0.5):
            continue
        bands = zip(images, pixels, strict=True)
        stamp = [cut_band(band, centres[number], size) for band, centres in bands]
        missing = np.concatenate([np.isnan(band.pixels) for band in stamp]).mean()
        if missing > MAX_MISSING_FRACTION:
            yield index, None
        else:
            yield index, encode_fits(stamp, _header_cards(objects, index, images[0].wcs))


def _header_cards(objects: CatalogueObjects, index: int, wcs: Wcs | None) -> dict[str, float | str]:
    """Return the cards with the id and the sky position of an object."""
    object_id = "".join(letter if " " <= letter <= "~" else "?" for letter in objects.ids[index])
    x, y = (float(number) for number in objects.positions[index])
    if objects.in_pixels and wcs is None:
        return {"OBJID": object_id}
    ra, dec = pixel_to_sky(wcs, x, y) if objects.in_pixels else (x % 360, y)
    position = {"RA": ra, "DEC": dec} if np.isfinite(ra + dec) else {}
    return {"OBJID": object_id, **position}
