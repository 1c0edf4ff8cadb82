"""Label images by a column of a catalogue."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImagesError
from apercu.images.catalogue.match import normalise_id
from apercu.images.catalogue.table import Catalogue
from apercu.images.source import ImageSource, Item, normalise_index


@dataclass(frozen=True, eq=False)
class LabelledImages(ImageSource):
    """The images of a source that have a label in a catalogue, in the order of the source."""

    source: ImageSource
    indices: tuple[int, ...] = field(repr=False)
    """Index of each image in the source."""
    labels: tuple[str, ...] = field(repr=False)
    """Label of each image."""

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


def label_images(
    source: ImageSource, rows: NDArray[np.intp], catalogue: Catalogue, column: str
) -> LabelledImages:
    """Label images by a column of whole numbers, bools or text.

    Args:
        source: The images.
        rows: Index of the row of each image, −1 where there is none, as `match_by_id` and
            `match_by_position` return them.
        catalogue: The catalogue of the rows.
        column: Name of the column with the class of each row.

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
