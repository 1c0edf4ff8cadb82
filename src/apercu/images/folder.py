"""Pictures of a folder as a source, with labels, boxes and regions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from apercu.errors import ImagesError
from apercu.images.formats.dicom import DicomReference, read_dicom_reference
from apercu.images.label_tables import BoxRow, Label
from apercu.images.orientation import turn_boxes, turn_picture
from apercu.images.reader import ReadOptions, StoredPicture, read_picture, read_stored
from apercu.images.source import ImageSource, Item, normalise_index
from apercu.types import Boxes, Picture

MASKS_FOLDER = "masks"


class PictureLocation(NamedTuple):
    """Where a picture lies: the file relative to the folder, and its frame of how many."""

    file: str
    frame: int = 0
    frames: int = 1

    @property
    def name(self) -> str:
        """The file, with the frame counted from 1 where there are several.

        >>> Place("a.png").name, Place("scan.dcm", 2, 40).name
        ('a.png', 'scan.dcm#3')
        """
        return self.file if self.frames == 1 else f"{self.file}#{self.frame + 1}"


@dataclass(frozen=True, eq=False)
class FolderImages(ImageSource):
    """Pictures of one folder; only names and table rows are held, never pixels."""

    path: Path
    locations: tuple[PictureLocation, ...] = field(repr=False)
    labels: tuple[Label, ...] | None = field(repr=False)
    boxes: Mapping[str, tuple[BoxRow, ...]] = field(repr=False)
    channels: int
    bands: tuple[str, ...] | None = None
    """Names of the channels of FITS files; None where they come as they lie."""
    file: str = ""
    """The only file that was asked for; none where the whole folder was."""

    @property
    def name(self) -> str:
        return str(self.path / self.file)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The distinct labels in alphabetical order; None for indices, which name nothing."""
        names = {label for label in self.labels or () if isinstance(label, str)}
        return tuple(sorted(names)) or None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(place.name for place in self.locations)

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        place = self.locations[index]
        label = None if self.labels is None else self.labels[index]
        stored = self._read_stored(place)
        boxes = self._read_boxes(place.file, label, stored)
        return Item(place.name, stored.picture, label, boxes, self._read_region(place.file, stored))

    def picture(self, index: int) -> Picture:
        return self._read_stored(self.locations[normalise_index(index, len(self))]).picture

    def dicom_reference(self, index: int) -> DicomReference | None:
        """How to refer to a DICOM image from another; None for what is no DICOM.

        Raises:
            ImageError: the file is damaged.
        """
        place = self.locations[normalise_index(index, len(self))]
        return read_dicom_reference(self.path / place.file, place.frame)

    def _read_stored(self, place: PictureLocation) -> StoredPicture:
        asked = ReadOptions(self.channels, place.frame, self.bands)
        return read_stored(self.path / place.file, asked)

    def _read_boxes(self, file: str, label: Label | None, stored: StoredPicture) -> Boxes | None:
        """The boxes of the label, cut off at the edges of the picture."""
        rows = [row for row in self.boxes.get(file, ()) if row.label in (None, label)]
        if not rows:
            return None
        height, width = stored.size
        boxes = torch.tensor([row.corners for row in rows])
        limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
        inside = boxes.clamp(min=0).minimum(limits)
        for row, (xmin, ymin, xmax, ymax) in zip(rows, inside.tolist(), strict=True):
            if xmin >= xmax or ymin >= ymax:
                corners = ", ".join(f"{corner:g}" for corner in row.corners)
                raise ImagesError(
                    f"{self.path / 'boxes.csv'} line {row.line}: expected a box inside {file} "
                    f"({width} × {height} pixels, width × height), got {corners}"
                )
        return turn_boxes(inside, stored.orientation, stored.size)

    def _read_region(self, file: str, stored: StoredPicture) -> Bool[Tensor, "height width"] | None:
        """What is not black in masks/<file>.png, or masks/<stem>.png."""
        relative = PurePosixPath(file).with_suffix(".png")
        places = (self.path / MASKS_FOLDER / relative, self.path / MASKS_FOLDER / relative.name)
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            return None
        mask = read_picture(path, channels=None).amax(dim=0) > 0
        if tuple(mask.shape) != stored.size:
            (height, width), (rows, columns) = stored.size, mask.shape
            raise ImagesError(
                f"{path}: expected {width} × {height} pixels (width × height) like {file}, "
                f"got {columns} × {rows}"
            )
        return turn_picture(mask, stored.orientation)
