"""Some images of a source, as a source of their own."""

from __future__ import annotations

from dataclasses import dataclass, field

from apercu.images.source import ImageSource, Item, normalise_index


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
