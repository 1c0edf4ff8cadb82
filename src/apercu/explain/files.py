"""The files of explanations: `explain.json`, contact sheets, and DICOM secondary captures.

A capture belongs to the same study as the image that it explains, and names it by identifiers only.
Nothing else is copied: the patient's name, number and dates stay empty, and an archive fills them
in from the study.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from apercu import render
from apercu.images.formats.dicom import DicomReference
from apercu.images.names import shorten_name
from apercu.io import parse_json, write_file

if TYPE_CHECKING:
    from pydicom import Dataset

    from apercu.explain.explanation import Explanation, StoredImage

COUNTED = 5
"""Classes that are counted where there are many images."""
EMPTY_FIELDS = (
    *("PatientName", "PatientID", "PatientBirthDate", "PatientSex"),
    *("StudyDate", "StudyTime", "ReferringPhysicianName", "StudyID", "AccessionNumber"),
    *("PatientOrientation", "Laterality", "Manufacturer"),
)
"""Fields that such a file must have and may leave empty."""
SERIES_NUMBER = 9901
RECORD_FILE = "explain.json"
SHEET_SIZE, SHEET_COLUMNS, TILE_SIDE = 50, 2, 176
"""Explanations per sheet and per row; pixels of a picture's longer side."""


def build_secondary_capture(image: Image.Image, source: DicomReference, description: str) -> bytes:
    """Build a DICOM file of 8-bit RGB pixels, derived from its source.

    Args:
        image: the picture in the file.
        source: the identifiers of the image that it explains.
        description: how the picture was made; it must name no patient.

    Returns:
        The bytes of the file.
    """
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import (
        ExplicitVRLittleEndian,
        SecondaryCaptureImageStorage,
        generate_uid,
    )

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    capture = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    capture.SpecificCharacterSet = "ISO_IR 192"
    capture.SOPClassUID = meta.MediaStorageSOPClassUID
    capture.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    capture.StudyInstanceUID = source.study or generate_uid()
    capture.SeriesInstanceUID = generate_uid()
    for name in EMPTY_FIELDS:
        setattr(capture, name, None)
    capture.Modality, capture.ConversionType = "OT", "WSD"
    capture.SeriesNumber, capture.InstanceNumber = SERIES_NUMBER, 1
    capture.SeriesDescription = "apercu"
    capture.ImageType = ["DERIVED", "SECONDARY"]
    if source.burned_in_annotation:
        capture.BurnedInAnnotation = source.burned_in_annotation
    capture.DerivationDescription = description[:1024]
    capture.SourceImageSequence = [_make_reference_item(source)]
    capture.DateOfSecondaryCapture = datetime.now(UTC).strftime("%Y%m%d")
    _set_pixels(capture, image.convert("RGB"))
    buffer = BytesIO()
    capture.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def _make_reference_item(source: DicomReference) -> Dataset:
    """Return the reference as an item of a sequence."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.sop_class, source.instance
    if source.frame is not None:
        item.ReferencedFrameNumber = source.frame + 1
    return item


def _set_pixels(capture: Dataset, image: Image.Image) -> None:
    """Set the size, the kind and the values of the pixels."""
    capture.SamplesPerPixel, capture.PlanarConfiguration = 3, 0
    capture.PhotometricInterpretation = "RGB"
    capture.Rows, capture.Columns = image.height, image.width
    capture.BitsAllocated, capture.BitsStored, capture.HighBit = 8, 8, 7
    capture.PixelRepresentation = 0
    pixels = image.tobytes()
    capture.PixelData = pixels + bytes(len(pixels) % 2)  # an even number of bytes
    capture["PixelData"].VR = "OB"


def describe_image(stored: StoredImage, explanations: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what `explain.json` says about one image.

    Args:
        stored: the image.
        explanations: what it says about each explanation of the image.

    Returns:
        An entry of its list of images.
    """
    height, width = stored.picture.shape[-2:]
    return {
        "image": stored.name,
        "source": stored.source,
        "width": width,
        "height": height,
        "answers": list(explanations),
    }


def write_record(
    folder: Path,
    explainer_record: Mapping[str, Any],
    images: Sequence[Mapping[str, Any]],
    sheets: Sequence[str] = (),
) -> None:
    """Write `explain.json`, which lists all images of a folder.

    Args:
        folder: the folder of the files.
        explainer_record: what it says about the explainer.
        images: what it says about each image.
        sheets: the names of the contact sheets.

    Raises:
        OutputError: the folder cannot be written.
    """
    content = {**explainer_record, "sheets": list(sheets), "images": list(images)}
    write_file(folder / RECORD_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_other_images(
    folder: Path, explainer_record: Mapping[str, Any], name: str
) -> list[Mapping[str, Any]]:
    """Return what `explain.json` says about other images of the same explainer.

    Args:
        folder: the folder of the file.
        explainer_record: what it would say about the explainer.
        name: the name of the image that is left out.

    Returns:
        Entries of its list of images; none where it is of another explainer, missing or damaged.
    """
    try:
        content = parse_json((folder / RECORD_FILE).read_text(encoding="utf-8"))
        same = content["fingerprint"] == explainer_record.get("fingerprint")
        images = [entry for entry in content["images"] if entry["image"] != name]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return images if same else []


def list_stems(entries: Iterable[Mapping[str, Any]]) -> set[str]:
    """Return the stems of the maps that `explain.json` lists, in lower case."""
    answers = (answer for entry in entries for answer in entry.get("answers", ()))
    maps = (str(answer.get("files", {}).get("map", "")) for answer in answers)
    return {name.removesuffix(".map.npy").casefold() for name in maps}


def choose_stem(name: str, stems: set[str]) -> str:
    """Return a file's name without its ending, with a number where it is taken.

    Args:
        name: the name of the file, or of a page of it, whose number is then in the stem.
        stems: the stems that are taken, in lower case; the new one is added.

    Returns:
        The stem.

    >>> [choose_stem(name, set()) for name in ("a/c#1.png", "scan.tif#1", "scan.tif#3")]
    ['c#1', 'scan', 'scan-3']
    """
    file, _, page = name.rpartition("#")
    is_page = bool(file) and page.isdecimal()
    first = shorten_name(Path(file if is_page else name).stem)
    first += f"-{page}" if is_page and page != "1" else ""
    stem, number = first, 2
    while stem.casefold() in stems:
        stem, number = f"{first}-{number}", number + 1
    stems.add(stem.casefold())
    return stem


class ContactSheets:
    """Collects tiles and writes `sheet.png`, or `sheet-001.png` … where one does not hold all.

    A full sheet is written at once, so that a folder of any size fits in memory.

    Args:
        folder: the folder of the sheets.
        expected: the number of explanations that will come; a single one gets no sheet.
    """

    def __init__(self, folder: Path, expected: int) -> None:
        self.folder = folder
        self.numbered = expected > SHEET_SIZE
        self.enabled = expected > 1
        self.waiting: list[list[render.Tile]] = []
        self.files: list[str] = []

    def add(self, tiles: list[render.Tile]) -> None:
        """Add the tiles of one explanation; a full sheet is written at once."""
        if not self.enabled:
            return
        self.waiting.append(
            [render.Tile(render.fit_to_side(tile.image, TILE_SIDE), tile.caption) for tile in tiles]
        )
        if len(self.waiting) == SHEET_SIZE:
            self.flush()

    def flush(self) -> None:
        """Write the tiles that are waiting.

        Raises:
            OutputError: the folder cannot be written.
        """
        if not self.waiting:
            return
        rows = [
            [tile for tiles in self.waiting[start : start + SHEET_COLUMNS] for tile in tiles]
            for start in range(0, len(self.waiting), SHEET_COLUMNS)
        ]
        name = f"sheet-{len(self.files) + 1:03d}.png" if self.numbered else "sheet.png"
        render.save_image(self.folder / name, render.draw_contact_sheet(rows, TILE_SIDE))
        self.files.append(name)
        self.waiting = []


class FolderWriter:
    """Writes explanations into a folder: their files, contact sheets, and `explain.json`.

    Args:
        folder: the folder that is written.
        explainer_record: what `explain.json` says about the explainer.
        expected: the number of explanations that will come; a single one gets no sheet.
        has_classes: whether an image may have several, so that names of files hold the class.

    Attributes:
        flipped: whether each counterpart is predicted as its target; None for masks, or where
            nobody knows.
    """

    def __init__(
        self, folder: Path, explainer_record: Mapping[str, Any], expected: int, has_classes: bool
    ) -> None:
        self.folder = folder
        self.explainer_record = explainer_record
        self.has_classes = has_classes
        self.sheets = ContactSheets(folder, expected)
        self.stems: set[str] = set()
        self.images: list[dict[str, Any]] = []
        self.flipped: list[bool | None] = []
        self.predicted: Counter[str] = Counter()

    def add(self, stored: StoredImage, explanations: Iterable[Explanation]) -> str:
        """Write the files of the explanations of one image, and return one line about it."""
        stem, records = choose_stem(stored.name, self.stems), []
        lines: list[str] = []
        for explanation in explanations:
            if explanation.predicted is not None and not lines:
                self.predicted[explanation.predicted.short_name] += 1
            line, trust = explanation.line, explanation.trust_line
            lines.append(f"{line.removesuffix('.')}; {trust}" if trust else line)
            slug = f".{explanation.target.slug}" if self.has_classes else ""
            records.append(explanation.write_files(self.folder, f"{stem}{slug}"))
            if self.sheets.enabled:
                self.sheets.add(explanation.make_tiles(stem))
            self.flipped.append(explanation.flipped)
        self.images.append(describe_image(stored, records))
        if len(lines) == 1:
            return lines[0]
        return f"{lines[0].removesuffix('.')}; {len(lines)} classes explained"

    def count_classes(self) -> str:
        """Return in one line how often the most frequent classes are predicted."""
        frequent = self.predicted.most_common(COUNTED)
        counts = [f"{count:,} × {name}" for name, count in frequent]
        if others := len(self.predicted) - len(frequent):
            counts.append(f"{others} other classes")
        return f"{self.predicted.total():,} images: {', '.join(counts)}"

    def write_record(self) -> None:
        """Write `explain.json` about all images so far."""
        write_record(self.folder, self.explainer_record, self.images, self.sheets.files)

    def finish(self) -> None:
        """Write what is finished: the record first, for a full disk may lack room for a sheet."""
        if self.images:
            self.write_record()
            self.sheets.flush()
            self.write_record()
