"""Pictures of a folder as a source, with their labels, boxes and regions."""

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
from apercu.images.reader import ReadOptions, StoredPicture, read_mask, read_stored
from apercu.images.resizing import turn_boxes, turn_picture
from apercu.images.source import ChosenImages, ImageSource, Item, normalise_index
from apercu.images.stream import resize_region, scale_boxes
from apercu.types import Boxes, Picture

MASKS_FOLDER = "masks"


class PictureLocation(NamedTuple):
    """Where a picture of a folder is stored.

    Attributes:
        file: path of the file relative to the folder.
        frame: index of the frame in the file.
        frames: number of frames in the file.
    """

    file: str
    frame: int = 0
    frames: int = 1

    @property
    def name(self) -> str:
        """The path of the file; in files of several frames with the frame, counted from 1.

        >>> PictureLocation("a.png").name, PictureLocation("scan.dcm", 2, 40).name
        ('a.png', 'scan.dcm#3')
        """
        return self.file if self.frames == 1 else f"{self.file}#{self.frame + 1}"


@dataclass(frozen=True, eq=False)
class FolderImages(ImageSource):
    """Pictures of one folder; names and table rows are in memory, pixels are not."""

    path: Path
    locations: tuple[PictureLocation, ...] = field(repr=False)
    labels: tuple[Label, ...] | None = field(repr=False)
    boxes: Mapping[str, tuple[BoxRow, ...]] = field(repr=False)
    channels: int
    bands: tuple[str, ...] | None = None
    """Names of the channels in FITS files; None keeps the order of the bands in the file."""
    file: str = ""
    """The file, where a single one was opened; empty for the whole folder."""

    @property
    def name(self) -> str:
        return str(self.path / self.file)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The distinct labels in alphabetical order; None if the labels are indices."""
        names = {label for label in self.labels or () if isinstance(label, str)}
        return tuple(sorted(names)) or None

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(location.name for location in self.locations)

    def __len__(self) -> int:
        return len(self.locations)

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        location = self.locations[index]
        label = None if self.labels is None else self.labels[index]
        stored = self._read_stored(location)
        boxes = self._read_boxes(location.file, label, stored)
        region = self._read_region(location.file, stored)
        return Item(location.name, stored.picture, label, boxes, region, stored.moves)

    def picture(self, index: int) -> Picture:
        return self._read_stored(self.locations[normalise_index(index, len(self))]).picture

    def label(self, index: int) -> str | int | None:
        return None if self.labels is None else self.labels[normalise_index(index, len(self))]

    def dicom_reference(self, index: int) -> DicomReference | None:
        """Return the identifiers by which another file refers to a DICOM image; None for others.

        Raises:
            ImageError: the file is damaged.
        """
        location = self.locations[normalise_index(index, len(self))]
        return read_dicom_reference(self.path / location.file, location.frame)

    def _read_stored(self, location: PictureLocation) -> StoredPicture:
        """Read a picture with its stored size and orientation."""
        options = ReadOptions(self.channels, location.frame, self.bands)
        return read_stored(self.path / location.file, options)

    def _read_boxes(self, file: str, label: Label | None, stored: StoredPicture) -> Boxes | None:
        """Return the boxes of the label, clipped to the picture, `boxes × 4`, or None."""
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
        upright = turn_boxes(inside, stored.orientation, stored.size)
        height, width = stored.picture.shape[1:]
        return scale_boxes(upright, stored.upright_size, (height, width))

    def _read_region(self, file: str, stored: StoredPicture) -> Bool[Tensor, "height width"] | None:
        """Read masks/<path>.png or masks/<stem>.png, True where it is opaque and not black."""
        relative = PurePosixPath(file).with_suffix(".png")
        masks = self.path / MASKS_FOLDER
        paths = (masks / relative, masks / relative.name)
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        mask = read_mask(path)
        if tuple(mask.shape) != stored.size:
            (height, width), (rows, columns) = stored.size, mask.shape
            raise ImagesError(
                f"{path}: expected {width} × {height} pixels (width × height) like {file}, "
                f"got {columns} × {rows}"
            )
        height, width = stored.picture.shape[1:]
        return resize_region(turn_picture(mask, stored.orientation), (height, width))


def list_files(source: ImageSource) -> tuple[str, ...] | None:
    """Return the file of each image of a folder, relative to it; several may have the same one.

    Args:
        source: images, or some of them.

    Returns:
        One path per image; None where they are no files of a folder.
    """
    if isinstance(source, ChosenImages):
        files = list_files(source.source)
        return None if files is None else tuple(files[index] for index in source.indices)
    if isinstance(source, FolderImages):
        return tuple(location.file for location in source.locations)
    return None


def find_files(source: ImageSource) -> set[Path]:
    """Return the files of images behind all links; empty where they are no files of a folder."""
    files = list_files(source)
    while isinstance(source, ChosenImages):
        source = source.source
    if files is None or not isinstance(source, FolderImages):
        return set()
    return {(source.path / file).resolve() for file in set(files)}
