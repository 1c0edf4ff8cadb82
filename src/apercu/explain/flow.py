"""Explains image after image into a folder; what cannot be read is told and left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apercu.errors import ImagesError, InputError, TargetError
from apercu.explain.options import CounterpartAnswers, MaskAnswers
from apercu.explain.pick import ImageRef
from apercu.explain.sheets import SHEET_SIZE, ContactSheets
from apercu.io import write_file

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
