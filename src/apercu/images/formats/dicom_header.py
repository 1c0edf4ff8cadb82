"""Read the header of a DICOM file: elements that may be damaged, absent, or written differently.

Errors name the file and the element, and never quote the header, because errors end up in logs.
"""

from __future__ import annotations

import math
from io import BufferedReader, BytesIO
from typing import TYPE_CHECKING, Any

from apercu.errors import ImageError, NoPixelsError
from apercu.extras import require_extra
from apercu.images.formats.decoder_errors import DECODER_ERRORS
from apercu.images.limits import inflate

if TYPE_CHECKING:
    from pydicom import Dataset

PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")

_RAW_DEFLATE = -15
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
}
"""Functional groups in which files of many frames store these elements, for each frame."""


def dicom_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that pydicom raises for damaged bytes."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*DECODER_ERRORS, BytesLengthException, InvalidDicomError)


def parse_dataset(stream: BytesIO | BufferedReader, name: str, *, pixels: bool) -> Dataset:
    """Parse the header of an image.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.
        pixels: whether the pixels are read too, and must be there.

    Returns:
        The elements of the file.

    Raises:
        ImageError: the file is damaged, cut short, unpacks to too much, or holds no image.
        MissingExtraError: pydicom is not installed.
    """
    require_extra("medical", name)
    from pydicom import dcmread
    from pydicom.uid import UID

    try:
        stream = _inflate_if_deflated(stream, name)
        dataset = dcmread(stream, stop_before_pixels=not pixels, force=True)
        _set_transfer_syntax(dataset)
    except ImageError:
        raise
    except dicom_errors() as error:
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error
    sides = [read_count(dataset, keyword, name) for keyword in ("Rows", "Columns")]
    has_pixels = any(keyword in dataset for keyword in PIXEL_ELEMENTS)
    if all(sides) and (not pixels or has_pixels):
        return dataset
    sop_class = UID(read_text(dataset, "SOPClassUID", name))
    if pixels and has_pixels:
        missing = "Rows" if not sides[0] else "Columns"
        raise ImageError(f"{name}: lacks {missing}, or it is 0: an image without pixels")
    if not sop_class:
        raise ImageError(f"{name}: no DICOM file, or one that is damaged or cut short")
    if "Image Storage" in sop_class.name:
        raise ImageError(
            f"{name}: damaged or cut short, an image without pixels ({sop_class.name})"
        )
    title = "unknown kind" if sop_class.name == sop_class else sop_class.name
    raise NoPixelsError(f"{name}: a DICOM file without pixels ({title}); choose one of an image")


def _inflate_if_deflated(stream: BytesIO | BufferedReader, name: str) -> BytesIO | BufferedReader:
    """Unpack a deflated file within limits, and mark it as one that is not deflated."""
    from pydicom.filereader import _read_file_meta_info, read_preamble
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

    read_preamble(stream, True)
    meta = _read_file_meta_info(stream)
    end = stream.tell()
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        stream.seek(0)
        return stream
    packed = stream.read()
    stream.seek(0)
    head = stream.read(end)
    old, new = str(DeflatedExplicitVRLittleEndian), str(ExplicitVRLittleEndian)
    padded = new.encode().ljust(len(old), b"\0")
    if old.encode() not in head:
        raise ImageError(f"{name}: damaged, its transfer syntax cannot be read")
    unpacked = inflate(packed, name, _RAW_DEFLATE)
    return BytesIO(head.replace(old.encode(), padded) + unpacked.getbuffer())


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of old files that do not state it, as the parser has found it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def apply_functional_groups(dataset: Dataset, frame: int, name: str) -> None:
    """Copy the rescaling, the window and the spacing of a frame from its groups to the top level.

    Args:
        dataset: the elements of the file, which are changed.
        frame: index of the frame.
        name: name of the file, for error messages.
    """
    sequences = (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame))
    for sequence, number in sequences:
        items = read_items(dataset, sequence, name)
        if number >= len(items):
            continue
        for group, keywords in _GROUPS.items():
            for item in read_items(items[number], group, name)[:1]:
                for keyword in keywords:
                    if read_value(item, keyword, name) is not None:
                        dataset[keyword] = item[keyword]


def read_value(dataset: Dataset, keyword: str, name: str) -> Any:
    """Return a value of the header; None if it is absent or empty.

    Raises:
        ImageError: its bytes do not fit the kind of value that they are said to be.
    """
    try:
        value = dataset.get(keyword)  # pydicom parses a value at its first access
        is_empty = value is None or (hasattr(value, "__len__") and len(value) == 0)
    except dicom_errors() as error:
        raise ImageError(
            f"{name}: damaged, {keyword} cannot be read ({type(error).__name__})"
        ) from error
    return None if is_empty else value


def read_items(dataset: Dataset, keyword: str, name: str) -> list[Any]:
    """Return the items of a sequence, none if it is absent; raise ImageError if it is damaged."""
    from pydicom import Dataset as Item

    value = read_value(dataset, keyword, name)
    if value is None:
        return []
    items = value if not isinstance(value, str | bytes) and hasattr(value, "__iter__") else [value]
    listed = list(items)
    if not all(isinstance(item, Item) for item in listed):
        raise ImageError(f"{name}: damaged, {keyword} is no sequence")
    return listed


def read_text(dataset: Dataset, keyword: str, name: str) -> str:
    """Return a text of the header without padding, empty if it is absent."""
    value = read_value(dataset, keyword, name)
    return "" if value is None else str(value).strip(" \0")


def read_count(dataset: Dataset, keyword: str, name: str) -> int:
    """Return a whole number of the header, 0 if it is absent; raise ImageError if damaged."""
    value = read_value(dataset, keyword, name)
    if value is None:
        return 0
    try:
        return max(0, int(value))
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"{name}: damaged, {keyword} is no whole number") from error


def read_number(dataset: Dataset, keyword: str, name: str) -> float | None:
    """Return a number of the header, the first of several; None if it is absent.

    Raises:
        ImageError: it is no finite number.
    """
    numbers = read_numbers(dataset, keyword, name)
    return numbers[0] if numbers else None


def read_numbers(dataset: Dataset, keyword: str, name: str) -> tuple[float, ...]:
    """Return all numbers of an element; none if it is absent.

    Raises:
        ImageError: one is no finite number.
    """
    value = read_value(dataset, keyword, name)
    if value is None:
        return ()
    several = isinstance(value, list | tuple) or (
        hasattr(value, "__iter__") and not isinstance(value, str | bytes)
    )
    try:
        numbers = tuple(float(number) for number in (value if several else [value]))
    except (TypeError, ValueError, OverflowError) as error:
        raise ImageError(f"{name}: damaged, {keyword} is no number") from error
    if not all(math.isfinite(number) for number in numbers):
        raise ImageError(f"{name}: damaged, {keyword} is no finite number")
    return numbers
