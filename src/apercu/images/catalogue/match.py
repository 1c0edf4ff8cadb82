"""Match rows of a catalogue to images, by an id or by position on the sky; read labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImagesError
from apercu.images.catalogue.table import Catalogue
from apercu.images.names import make_file_stem, strip_suffix
from apercu.images.reader import SUFFIXES
from apercu.images.source import ImageSource, Item, normalise_index

_MAX_EXACT_INTEGER = 2**53
"""Whole numbers below this one are exact as floats."""


class CatalogueMatch(NamedTuple):
    """Which row of a catalogue belongs to which image.

    Attributes:
        rows: index of the row of each image; −1 where there is none.
        unused: number of rows of the catalogue that belong to no image.
    """

    rows: NDArray[np.intp]
    unused: int


def match_by_id(names: Sequence[str], catalogue: Catalogue, column: str) -> CatalogueMatch:
    """Match images to rows by a column of ids.

    Ids are compared as text, and whole numbers by their digits; an image that has none may be
    called as `apercu cutouts` calls the stamp of an id, which may hold blanks or slashes.

    Args:
        names: names of the images; without folders and suffix they are the ids.
        catalogue: the catalogue.
        column: name of the column of ids.

    Returns:
        The row of each image.

    Raises:
        ConfigError: there is no such column, an id stands in two rows, or the column's floats
            cannot tell its ids apart.
        ImagesError: fewer than half of the images have a row.
    """
    rows = find_rows_by_id(catalogue, column)
    ids = [normalise_id(strip_suffix(name, SUFFIXES)) for name in names]
    stems = [make_file_stem(key) for key in rows]
    counts = Counter(stems)
    named = {stem: row for stem, row in zip(stems, rows.values(), strict=True) if counts[stem] == 1}
    indices = np.array([rows.get(key, named.get(key, -1)) for key in ids], dtype=np.intp)
    example = f"such as {next(iter(rows), 'nothing')} in the catalogue"
    return _check_match(
        indices, catalogue, f"by {column}", f"are ids like the images' names, {example}?"
    )


def match_by_position(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    catalogue: Catalogue,
    radius_arcsec: float,
    columns: tuple[str, str] = ("ra", "dec"),
) -> CatalogueMatch:
    """Match images to the nearest row within a radius on the sky.

    Args:
        ra: right ascension of each image in degrees; NaN where it is unknown.
        dec: declination of each image in degrees.
        catalogue: a catalogue with positions in degrees.
        radius_arcsec: largest distance of a row from its image in arcseconds.
        columns: names of the columns of right ascension and declination.

    Returns:
        The row of each image.

    Raises:
        ConfigError: there are no such columns, or the radius is not above 0.
        ImagesError: fewer than half of the images have a row.
    """
    if not radius_arcsec > 0:
        raise ConfigError(f"radius: expected arcseconds above 0, got {radius_arcsec:g}")
    rows = _find_nearest_rows(
        unit_vectors(ra, dec),
        read_unit_vectors(catalogue, columns),
        np.deg2rad(radius_arcsec / 3600),
    )
    unknown = int(np.count_nonzero(~np.isfinite(ra + dec)))
    hint = f"{unknown} images have no position; " if unknown else ""
    return _check_match(
        rows,
        catalogue,
        f"by position within {radius_arcsec:g} arcsec",
        f"{hint}is the radius right?",
    )


def find_rows_by_id(catalogue: Catalogue, column: str) -> dict[str, int]:
    """Return the row of each id, in the order of the rows; rows without an id are left out.

    Raises:
        ConfigError: there is no such column, an id stands in two rows, or the column's floats
            cannot tell its ids apart.
    """
    rows: dict[str, int] = {}
    for row, key in enumerate(_read_ids(catalogue, column)):
        if key is None:
            continue
        if key in rows:
            raise ConfigError(
                f"{catalogue.path}: expected each {column} once, got {key} in rows "
                f"{rows[key] + 1} and {row + 1}; choose another column"
            )
        rows[key] = row
    return rows


def _read_ids(catalogue: Catalogue, column: str) -> list[str | None]:
    """Read a column of ids as text; None where one is missing."""
    values = catalogue.column(column)
    if values.dtype.kind == "f":
        finite = values[np.isfinite(values)]
        if (np.abs(finite) >= _MAX_EXACT_INTEGER).any():
            raise ConfigError(
                f"{catalogue.path}: {column} is stored as floats, which lose digits of long ids; "
                "store it as integers or text"
            )
        return [normalise_id(value) if np.isfinite(value) else None for value in values.tolist()]
    return [None if value is None else normalise_id(value) for value in values.tolist()]


def normalise_id(value: object) -> str:
    """Return an id as the text by which it is compared.

    >>> normalise_id(123), normalise_id("123.0"), normalise_id(" a1 ")
    ('123', '123', 'a1')
    """
    text = str(value).strip()
    return text.partition(".")[0] if re.fullmatch(r"-?\d+\.0+", text) else text


def read_unit_vectors(catalogue: Catalogue, columns: tuple[str, str]) -> NDArray[np.float64]:
    """Read the positions of the rows as unit vectors, `rows × 3`; NaN where one is missing."""
    ra, dec = (catalogue.numbers(column, missing=()) for column in columns)
    return unit_vectors(ra, dec)


def unit_vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return unit vectors of sky positions in degrees, `rows × 3`; NaN for invalid positions."""
    valid = (ra >= -180) & (ra <= 360) & (np.abs(dec) <= 90)
    longitude, latitude = (np.deg2rad(np.where(valid, angle, np.nan)) for angle in (ra, dec))
    x, y = np.cos(latitude) * np.cos(longitude), np.cos(latitude) * np.sin(longitude)
    return np.stack([x, y, np.sin(latitude)], axis=1)


def _find_nearest_rows(
    images: NDArray[np.float64], rows: NDArray[np.float64], radius: float
) -> NDArray[np.intp]:
    """Find the nearest row within a radius in radians, among rows of about the same height."""
    reach = 2 * np.sin(min(radius, np.pi) / 2)  # length of the chord between two unit vectors
    order = np.argsort(rows[:, 2], kind="stable")  # NaN last
    heights = rows[order, 2]
    first = np.searchsorted(heights, images[:, 2] - reach - 1e-12)
    last = np.searchsorted(heights, images[:, 2] + reach + 1e-12, side="right")
    nearest = np.full(len(images), -1, dtype=np.intp)
    for index in np.flatnonzero(np.isfinite(images).all(axis=1)):
        near = order[first[index] : last[index]]
        if not len(near):
            continue
        lengths = np.linalg.norm(rows[near] - images[index], axis=1)
        best = int(np.argmin(lengths))
        if lengths[best] <= reach:
            nearest[index] = near[best]
    return nearest


def _check_match(
    rows: NDArray[np.intp], catalogue: Catalogue, how: str, hint: str
) -> CatalogueMatch:
    """Build the match; raise ImagesError if fewer than half of the images have a row."""
    matched = int(np.count_nonzero(rows >= 0))
    if 2 * matched < len(rows):
        raise ImagesError(
            f"{catalogue.path}: matched {matched} of {len(rows)} images ({how}); {hint}"
        )
    return CatalogueMatch(rows, len(catalogue) - len(np.unique(rows[rows >= 0])))


@dataclass(frozen=True, eq=False)
class LabelledImages(ImageSource):
    """The images of a source that have a label in a catalogue, in the order of the source.

    Attributes:
        source: all images.
        indices: index of each image in the source.
        labels: label of each image.
    """

    source: ImageSource
    indices: tuple[int, ...] = field(repr=False)
    labels: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.labels)))

    @property
    def labelled(self) -> bool:
        return True

    @property
    def names(self) -> tuple[str, ...]:
        names = self.source.names
        return tuple(names[pick] for pick in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        return replace(self.source[self.indices[index]], label=self.labels[index])

    def label(self, index: int) -> str:
        return self.labels[normalise_index(index, len(self))]


def label_images(
    source: ImageSource, rows: NDArray[np.intp], catalogue: Catalogue, column: str
) -> LabelledImages:
    """Label images by a column of whole numbers, bools or text.

    Args:
        source: the images.
        rows: index of the row of each image, −1 where there is none, as `match_by_id` and
            `match_by_position` return them.
        catalogue: the catalogue of the rows.
        column: name of the column with the class of each row.

    Returns:
        The images that have a label.

    Raises:
        ConfigError: there is no such column, or it holds fractions.
        ImagesError: no image has a label.
    """
    names = read_classes(catalogue, column)
    matched = [(index, names[row]) for index, row in enumerate(rows.tolist()) if row >= 0]
    pairs = [(index, name) for index, name in matched if name is not None]
    if not pairs:
        raise ImagesError(f"{catalogue.path}: no image of {source.name} has a {column}")
    return LabelledImages(source, tuple(i for i, _ in pairs), tuple(name for _, name in pairs))


def read_classes(catalogue: Catalogue, column: str) -> list[str | None]:
    """Read the class of each row as text, None where missing; raises ConfigError for fractions."""
    values = catalogue.column(column).tolist()
    for row, value in enumerate(values):
        if isinstance(value, float) and np.isfinite(value) and not value.is_integer():
            raise ConfigError(
                f"{catalogue.path}: expected classes in column {column}, whole numbers, bools or "
                f"text, got {value:g} in row {row + 1}"
            )
    return [None if value is None or value != value else normalise_id(value) for value in values]
