"""`ImageSource`, the interface of every set of images: a length, and an item for each index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from jaxtyping import Bool
from torch import Tensor

from apercu.types import Boxes, Picture


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a source with its label, boxes and region."""

    name: str
    """Path relative to the source, or name of the row; unique in the source."""
    picture: Picture
    """The image at its stored size, upright, in [0, 1]; FITS and stacks give raw counts and NaN."""
    label: str | int | None
    """Name of the class or of its folder, or the class index; None if there is no label."""
    boxes: Boxes | None
    """True boxes in pixels of `picture`, `boxes × 4`; None if there are none."""
    region: Bool[Tensor, "height width"] | None
    """True mask at the size of `picture`; None if there is none."""
    moves: bool = False
    """Whether its file is an animation, of which `picture` is the first frame."""


class ImageSource(ABC):
    """A set of images that are read one at a time, in any order.

    A source can be pickled; it opens its files only in `__getitem__`, which may be called from
    several threads and after a fork. `__getitem__` raises ImageError for an image that cannot be
    read, so that a caller may skip it, and IndexError past the end.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The specification that `open_images` was called with."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """Class names in the order of their indices; None if the source does not have them."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Whether every item has a label."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """The name of every item in order; no picture is read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    def picture(self, index: int) -> Picture:
        """Return one picture without reading its boxes and its region."""
        return self[index].picture

    def label(self, index: int) -> str | int | None:
        """Return the label of one image, without its picture where the source can."""
        return self[index].label

    def read_column(self, name: str) -> tuple[str, ...] | None:
        """Return the cells of another column of the images' own table, such as the patient of each.

        Args:
            name: the column, in upper or lower case.

        Returns:
            A text for each image, empty where the cell is; None where there is no such table.

        Raises:
            ImagesError: the table lacks the column, or cannot be read.
        """
        return None

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


def normalise_index(index: int, length: int) -> int:
    """Return an index counted from the front; raises IndexError if it is out of range."""
    if not -length <= index < length:
        raise IndexError(f"image {index} of a source of {length}")
    return index % length


class UnlabelledImages(ImageSource):
    """A source of images without labels."""

    @property
    def class_names(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class UnlabelledFile(UnlabelledImages):
    """The images of one file, whose ids are in memory and which have no labels."""

    path: Path
    ids: tuple[str, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def names(self) -> tuple[str, ...]:
        return self.ids

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class ChosenImages(ImageSource):
    """The images of a source at chosen indices, in the order of the indices."""

    source: ImageSource
    indices: tuple[int, ...] = field(repr=False)

    @property
    def name(self) -> str:
        return self.source.name

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.source.class_names

    @property
    def labelled(self) -> bool:
        return self.source.labelled

    @property
    def names(self) -> tuple[str, ...]:
        names = self.source.names
        return tuple(names[index] for index in self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Item:
        return self.source[self.indices[normalise_index(index, len(self))]]

    def label(self, index: int) -> str | int | None:
        return self.source.label(self.indices[normalise_index(index, len(self))])

    def read_column(self, name: str) -> tuple[str, ...] | None:
        cells = self.source.read_column(name)
        return None if cells is None else tuple(cells[index] for index in self.indices)


@dataclass(frozen=True, eq=False)
class JoinedImages(UnlabelledImages):
    """The images of several sources, one after the other, without their labels.

    Args:
        sources: the sources.
    """

    sources: tuple[ImageSource, ...]

    @property
    def name(self) -> str:
        return " + ".join(source.name for source in self.sources)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{source.name}/{name}" for source in self.sources for name in source.names)

    def __len__(self) -> int:
        return sum(map(len, self.sources))

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        for source in self.sources:
            if index < len(source):
                item = source[index]
                return replace(item, name=f"{source.name}/{item.name}", label=None)
            index -= len(source)
        raise IndexError(index)
