"""What every set of images is: a length, and an item for each index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field

from jaxtyping import Bool
from torch import Tensor

from apercu.types import Boxes, Picture


@dataclass(frozen=True, eq=False)
class Item:
    """One image of a source, with what is known about it."""

    name: str
    """Path relative to the source, or the row's name; unique in the source."""
    picture: Picture
    """As stored, upright, in [0, 1]; raw counts, NaN where unknown, from FITS and stacks."""
    label: str | int | None
    """Folder name, class name, or class index as written."""
    boxes: Boxes | None
    """Pixels of `picture`; None where nobody drew one."""
    region: Bool[Tensor, "height width"] | None
    """The true mask, at the size of `picture`."""


class ImageSource(ABC):
    """Images one at a time, in any order; pickles, and opens its files only in `__getitem__`.

    `__getitem__` may be called from several threads and after a fork. It raises ImageError for an
    image that cannot be read, so that a caller may skip it, and IndexError past the end.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """What `open_images` was given."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...] | None:
        """The classes in the order of their indices, where the source knows them."""

    @property
    @abstractmethod
    def labelled(self) -> bool:
        """Does every item have a label?"""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Every item's name, in order; no picture is read."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Item: ...

    def picture(self, index: int) -> Picture:
        """One image alone; where boxes and masks lie in files of their own, these are not read."""
        return self[index].picture

    def __iter__(self) -> Iterator[Item]:
        return (self[index] for index in range(len(self)))


def normalise_index(index: int, length: int) -> int:
    """The index counted from the front; raises IndexError outside a source of that length."""
    if not -length <= index < length:
        raise IndexError(f"image {index} of a source of {length}")
    return index % length


@dataclass(frozen=True, eq=False)
class ChosenImages(ImageSource):
    """The images of a source at some of its indices, in this order."""

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
