"""Which images are explained: all that were named, or a seeded handful of them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apercu import render
from apercu.classifiers import InputSpec
from apercu.errors import ImagesError, InputError, TargetError
from apercu.explain.options import CounterpartAnswers, MaskAnswers
from apercu.images import ImageSource, open_images
from apercu.images.folder import FolderImages
from apercu.images.formats.dicom import DicomReference
from apercu.io import write_file
from apercu.types import Picture


@dataclass(frozen=True)
class ImageRef:
    """One image of a source, not read yet."""

    source: ImageSource
    index: int

    def read_image(self) -> tuple[str, Picture]:
        """Name and picture.

        Raises:
            ImageError: it cannot be read.
        """
        item = self.source[self.index]
        return item.name, item.picture

    @property
    def name(self) -> str:
        """Which image it is, where it is not read."""
        return f"image {self.index + 1} of {self.source.name}"

    def find_reference(self) -> DicomReference | None:
        """How a DICOM file refers to the image; None where it is no DICOM itself."""
        if isinstance(self.source, FolderImages):
            return self.source.dicom_reference(self.index)
        return None


def select_images(
    specs: Sequence[str | Path], input: InputSpec, random: int | None = None, seed: int = 0
) -> list[ImageRef]:
    """All images of the sources, or `random` of them in their order.

    Args:
        specs: of the sources.
        input: says how many channels there are, and how bands are called.
        random: how many.
        seed: of their draw.

    Raises:
        ImagesError: a file or folder is missing, or holds no images.
    """
    sources = [open_images(s, channels=input.channels, bands=input.bands) for s in specs]
    every = [ImageRef(source, index) for source in sources for index in range(len(source))]
    if random is None or random >= len(every):
        return every
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(seed))
    return [every[place] for place in sorted(order[:random].tolist())]


SHEET_SIZE, SHEET_COLUMNS, TILE_SIDE = 50, 2, 176
"""Explanations per sheet and per row; pixels of a picture's longer side."""


class ContactSheets:
    """Collects tiles and writes `sheet.png`, or `sheet-001.png` … where one does not hold all.

    Args:
        folder: where sheets go.
        expected: how many explanations will come.
    """

    def __init__(self, folder: Path, expected: int) -> None:
        self.folder = folder
        self.paged = expected > SHEET_SIZE
        self.enabled = expected > 1
        self.waiting: list[list[render.Tile]] = []
        self.files: list[str] = []

    def add(self, tiles: list[render.Tile]) -> None:
        """Takes one explanation; a full page is written at once."""
        if not self.enabled:
            return
        small = [
            render.Tile(render.fit_to_side(tile.image, TILE_SIDE), tile.caption) for tile in tiles
        ]
        self.waiting.append(small)
        if len(self.waiting) == SHEET_SIZE:
            self.flush()

    def flush(self) -> None:
        """Writes what is waiting.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.waiting:
            return
        rows = [
            [tile for tiles in self.waiting[start : start + SHEET_COLUMNS] for tile in tiles]
            for start in range(0, len(self.waiting), SHEET_COLUMNS)
        ]
        name = f"sheet-{len(self.files) + 1:03d}.png" if self.paged else "sheet.png"
        render.save_image(self.folder / name, render.draw_contact_sheet(rows, TILE_SIDE))
        self.files.append(name)
        self.waiting = []


RECORD_FILE = "explain.json"


class ExplainRun:
    """One explainer at work on a list of images.

    Args:
        answering: what is asked of whom.
        out: the folder that is written.
    """

    def __init__(self, answering: MaskAnswers | CounterpartAnswers, out: Path) -> None:
        self.answering = answering
        self.out = out
        self.stems: set[str] = set()
        self.records: list[dict[str, Any]] = []

    def __call__(
        self,
        picks: Sequence[ImageRef],
        progress: Callable[[int, int], None],
        warn: Callable[[str], None],
    ) -> None:
        """Writes the files of each image, contact sheets, and `explain.json`.

        Args:
            picks: the images.
            progress: told how many are done, and how many there are.
            warn: told in one line about each image that cannot be read.

        Raises:
            ImageError: the only image cannot be read.
            ImagesError: some images could not be explained; the others are finished.
            OutputError: the folder cannot be written.
        """
        sheets = ContactSheets(self.out, len(picks) * self.answering.count)
        failed = 0
        try:
            for done, chosen in enumerate(picks, start=1):
                try:
                    self._explain_image(chosen, sheets)
                except InputError as error:
                    if len(picks) == 1:
                        raise
                    failed += 1
                    named = isinstance(error, TargetError)  # others name the file themselves
                    warn(f"{chosen.name}: {error}" if named else str(error))
                if done % SHEET_SIZE == 0:
                    self._write_record(sheets.files)
                progress(done, len(picks))
        finally:
            if self.records:  # first what is finished; a full disk may have no room for a sheet
                self._write_record(sheets.files)
                sheets.flush()
                self._write_record(sheets.files)
        if failed:
            raise ImagesError(
                f"{failed} of {len(picks)} images could not be explained; "
                f"the others are in {self.out}"
            )

    def _explain_image(self, chosen: ImageRef, sheets: ContactSheets) -> None:
        name, picture = chosen.read_image()
        stem, answers = self._choose_stem(name), []
        for answer in self.answering(picture, chosen.find_reference()):
            place = f"{stem}.{answer.slug}" if self.answering.several else stem
            answers.append(answer.save(self.out, place))
            sheets.add(answer.make_tiles(stem))
        height, width = picture.shape[1:]
        size = {"width": width, "height": height}
        about = {"image": name, "source": chosen.source.name}
        self.records.append({**about, **size, "answers": answers})

    def _choose_stem(self, name: str) -> str:
        """The file's name without its ending, numbered where another image has it already."""
        first = Path(name).stem
        stem, number = first, 2
        while stem.casefold() in self.stems:
            stem, number = f"{first}-{number}", number + 1
        self.stems.add(stem.casefold())
        return stem

    def _write_record(self, sheets: Sequence[str]) -> None:
        passport = self.answering.explainer.classifier_info
        content = {
            "classifier": passport.spec,
            "fingerprint": passport.fingerprint,
            **self.answering.about,
            "map_size": list(passport.input.size),
            "sheets": list(sheets),
            "images": self.records,
        }
        write_file(self.out / RECORD_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
