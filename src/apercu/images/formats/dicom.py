"""Decode DICOM images as a radiologist's viewer shows them; needs the `medical` extra (pydicom).

Only the parts of the header that shape the pixels are read. Errors name the file and never quote
the header, or a message of the library that may quote it, because errors end up in logs.
"""

from __future__ import annotations

from io import BufferedReader, BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.limits import check_size
from apercu.images.warnings import silence_warnings

if TYPE_CHECKING:
    from pydicom import Dataset

PREAMBLE = 128
DICOM_MAGIC = b"DICM"
"""Bytes that follow the preamble of every DICOM file."""
SUFFIXES = frozenset((".dcm", ".dicom"))

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
"""Functional groups in which files of many frames store these elements, for each frame."""


class DicomHeading(NamedTuple):
    """The parts of a header that are needed to list a folder.

    Attributes:
        frames: Number of pictures in the file.
        series: Identifier of the series of the examination; empty if the file has none.
        size: The (height, width) in pixels.
    """

    frames: int
    series: str
    size: tuple[int, int]


class DicomReference(NamedTuple):
    """The identifiers by which another file refers to a picture; they do not name the patient.

    Attributes:
        study: Identifier of the study; empty if the file has none.
        sop_class: Identifier of the kind of DICOM object.
        instance: Identifier of the object.
        frame: Index of the frame; None in a file of one picture.
        burned_in_annotation: `YES` if text is part of the picture, `NO` if not, else empty.
    """

    study: str
    sop_class: str
    instance: str
    frame: int | None
    burned_in_annotation: str = ""


def is_dicom(start: bytes) -> bool:
    """Return whether a file that starts with these bytes is a DICOM file.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"GIF89a")
    (True, False)
    """
    return start[PREAMBLE : PREAMBLE + len(DICOM_MAGIC)] == DICOM_MAGIC


def read_dicom_heading(stream: BytesIO | BufferedReader, name: str) -> DicomHeading:
    """Read the heading; raises ImageError if the file is damaged or has no pixels."""
    with silence_warnings("pydicom"):
        dataset = _parse_dataset(stream, name, pixels=False)
        size = _read_count(dataset, "Rows", name), _read_count(dataset, "Columns", name)
        frames = _read_count(dataset, "NumberOfFrames", name) or 1
        return DicomHeading(frames, _read_text(dataset, "SeriesInstanceUID", name), size)


def read_dicom_reference(path: Path, frame: int = 0) -> DicomReference | None:
    """Read the identifiers of a picture.

    Args:
        path: The file.
        frame: Index of the frame.

    Returns:
        The identifiers; None if the file is not DICOM or has no identifiers.

    Raises:
        ImageError: a DICOM file is damaged.
    """
    with path.open("rb") as stream, silence_warnings("pydicom"):
        start = stream.read(PREAMBLE + len(DICOM_MAGIC))
        stream.seek(0)
        if not is_dicom(start) and path.suffix.lower() not in SUFFIXES:
            return None
        dataset = _parse_dataset(stream, str(path), pixels=False)
        several = _read_count(dataset, "NumberOfFrames", str(path)) > 1
        study = _read_text(dataset, "StudyInstanceUID", str(path))
        sop_class = _read_text(dataset, "SOPClassUID", str(path))
        instance = _read_text(dataset, "SOPInstanceUID", str(path))
        burned_in = _read_text(dataset, "BurnedInAnnotation", str(path))
    if not (sop_class and instance):
        return None
    if burned_in not in ("YES", "NO"):
        burned_in = ""
    return DicomReference(study, sop_class, instance, frame if several else None, burned_in)


def decode_dicom(
    stream: BytesIO | BufferedReader, name: str, frame: int = 0
) -> NDArray[np.float32]:
    """Decode one frame as a viewer shows it.

    Grey goes through the modality transform (rescale or table) and the first VOI transform (table,
    or window: linear, exact or sigmoid). Without a VOI transform it is scaled from the lowest to
    the highest value, padding excluded. MONOCHROME1 is inverted, so that dense tissue is bright in
    every file. Palettes and YBR become RGB.

    Args:
        stream: The bytes of the file.
        name: Name of the file, for error messages.
        frame: Index of the frame.

    Returns:
        Pixels in [0, 1], `channels × height × width`.

    Raises:
        ImageError: the file is damaged, has no pixels, is of an unknown kind, too small or too
            large, needs a codec that is not installed, or has no such frame.
    """
    with silence_warnings("pydicom"):
        dataset = _parse_dataset(stream, name, pixels=True)
        kind = _read_photometric_interpretation(dataset, name)
        check_size(name, _read_count(dataset, "Rows", name), _read_count(dataset, "Columns", name))
        frames = _read_count(dataset, "NumberOfFrames", name) or 1
        if not 0 <= frame < frames:
            raise ImageError(f"{name}: expected a frame below {frames}, got {frame}")
        values = _decode_frame(dataset, name, frame)
        _apply_functional_groups(dataset, frame)
        _check_transforms(dataset, name)
        try:
            return (
                _render_grey(values, dataset, kind)
                if kind in GREY
                else _render_colour(values, dataset, kind)
            )
        except Exception as error:  # hostile headers may raise anything
            raise ImageError(
                f"{name}: its transforms cannot be applied ({type(error).__name__})"
            ) from error


def _parse_dataset(stream: BytesIO | BufferedReader, name: str, *, pixels: bool) -> Dataset:
    """Parse the header, or the whole file if `pixels`; raise ImageError if it is no image."""
    try:
        from pydicom import dcmread
        from pydicom.uid import UID
    except ImportError as error:
        raise ImageError(
            f"{name}: a DICOM file, which needs pydicom; install apercu[medical]"
        ) from error
    try:
        dataset = dcmread(stream, stop_before_pixels=not pixels, force=True)
        _set_transfer_syntax(dataset)
    except Exception as error:  # hostile bytes may raise anything
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error
    sides = _read_count(dataset, "Rows", name), _read_count(dataset, "Columns", name)
    if all(sides) and (not pixels or any(keyword in dataset for keyword in _PIXEL_ELEMENTS)):
        return dataset
    sop_class = UID(_read_text(dataset, "SOPClassUID", name))
    if not sop_class:
        raise ImageError(f"{name}: no DICOM file, or one that is damaged or cut short")
    if "Image Storage" in sop_class.name:
        raise ImageError(
            f"{name}: damaged or cut short, an image without pixels ({sop_class.name})"
        )
    title = "unknown kind" if sop_class.name == sop_class else sop_class.name
    raise ImageError(f"{name}: a DICOM file without pixels ({title}); choose one of an image")


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Set the transfer syntax of old files that do not state it, as the parser has found it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _read_photometric_interpretation(dataset: Dataset, name: str) -> str:
    """Read the photometric interpretation; raise ImageError if it does not fit the samples."""
    kind = _read_text(dataset, "PhotometricInterpretation", name)
    samples = _read_count(dataset, "SamplesPerPixel", name) or 1
    expected = {**dict.fromkeys(GREY, 1), **dict.fromkeys(COLOUR, 3), "PALETTE COLOR": 1}
    if kind not in expected:
        interpretations = ", ".join((*GREY, *COLOUR))
        raise ImageError(
            f"{name}: expected a photometric interpretation of {interpretations}; "
            "got another, or none"
        )
    if samples != expected[kind]:
        raise ImageError(
            f"{name}: expected {expected[kind]} samples per pixel with {kind}, got {samples}"
        )
    return kind


def _decode_frame(dataset: Dataset, name: str, frame: int) -> NDArray[Any]:
    """Decode the stored values of a frame, `height × width`, or `height × width × 3` in RGB."""
    from pydicom.pixels.utils import pixel_array

    _check_codec(dataset, name)
    try:
        values: NDArray[Any] = pixel_array(dataset, index=frame)
        return values
    except Exception as error:  # hostile bytes make a codec raise anything
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error


def _check_codec(dataset: Dataset, name: str) -> None:
    """Raise ImageError if no installed codec reads the compression, and name one that does."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not (isinstance(syntax, UID) and syntax.is_transfer_syntax):
        raise ImageError(f"{name}: written in a transfer syntax that no standard knows; convert it")
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        raise ImageError(
            f"{name}: compressed as {syntax.name}, which pydicom does not read; convert it"
        ) from None
    if not decoder.is_available:
        missing = decoder.missing_dependencies
        packages = " or ".join(each.partition(" - requires ")[2] or each for each in missing)
        raise ImageError(
            f"{name}: compressed as {syntax.name}, which needs a codec; install {packages}"
        )


def _apply_functional_groups(dataset: Dataset, frame: int) -> None:
    """Copy the rescaling and the window of a frame from its functional groups to the top level."""
    sequences = (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame))
    for sequence, number in sequences:
        items = dataset.get(sequence) or ()
        if number >= len(items):
            continue
        for group, keywords in _GROUPS.items():
            for item in (items[number].get(group) or ())[:1]:
                for keyword in keywords:
                    if keyword in item:
                        dataset[keyword] = item[keyword]


def _check_transforms(dataset: Dataset, name: str) -> None:
    """Raise ImageError for a rescaling or a window that would make all pixels the same."""
    for keyword in ("RescaleSlope", "WindowWidth"):
        if dataset.get(keyword) is not None:
            try:
                value = _first_number(dataset[keyword].value)
            except (TypeError, ValueError, IndexError) as error:
                raise ImageError(f"{name}: damaged, {keyword} is no number") from error
            if not (value > 0 or (value < 0 and keyword == "RescaleSlope")):
                raise ImageError(f"{name}: {keyword} is {value:g}, which shows nothing; correct it")


def _render_grey(values: NDArray[Any], dataset: Dataset, kind: str) -> NDArray[np.float32]:
    """Apply the transforms of a grey frame; returns pixels in [0, 1], `1 × height × width`."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    padding = _find_padding(values, dataset)
    values = apply_modality_lut(values, dataset)
    tables = dataset.get("VOILUTSequence")
    if tables and tables[0].get("LUTData") is not None:
        bits = int(tables[0].LUTDescriptor[2])
        pixels = apply_voi(values, dataset) / (2.0**bits - 1)
    elif dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        pixels = _apply_window(values.astype(np.float64), dataset)
    else:
        inside = values[~padding] if not padding.all() else values
        low, high = float(inside.min()), float(inside.max())
        pixels = (values - low) / (high - low or 1.0)
    pixels = np.clip(pixels, 0, 1)
    pixels[padding] = 0
    if kind == "MONOCHROME1":
        pixels = np.where(padding, 0, 1 - pixels)
    return pixels[None].astype(np.float32)


def _find_padding(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Return True where a pixel is padding (Pixel Padding Value, with its range limit)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(values.shape, bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(value), int(value if limit is None else limit)))
    padding: NDArray[np.bool_] = (values >= low) & (values <= high)
    return padding


def _apply_window(values: NDArray[np.float64], dataset: Dataset) -> NDArray[np.float64]:
    """Apply the first window, to [0, 1]: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    centre = _first_number(dataset["WindowCenter"].value)
    width = _first_number(dataset["WindowWidth"].value)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def _first_number(value: Any) -> float:
    """Return a number, or the first of several."""
    try:
        return float(value)
    except TypeError:
        return float(value[0])


def _render_colour(values: NDArray[Any], dataset: Dataset, kind: str) -> NDArray[np.float32]:
    """Convert a colour frame to RGB in [0, 1], `3 × height × width`."""
    from pydicom.pixels.processing import apply_color_lut

    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        full_scale = float(np.iinfo(values.dtype).max)
    else:
        full_scale = 2.0 ** int(dataset.BitsStored) - 1
    return np.moveaxis(values[..., :3], 2, 0).astype(np.float32) / np.float32(full_scale)


def _read_text(dataset: Dataset, keyword: str, name: str) -> str:
    """Return a text of the header, empty if it is absent; raise ImageError if it is damaged."""
    try:
        return str(dataset.get(keyword) or "")
    except Exception as error:  # pydicom parses a value at its first access
        raise ImageError(f"{name}: damaged, {keyword} cannot be read") from error


def _read_count(dataset: Dataset, keyword: str, name: str) -> int:
    """Return a whole number of the header, 0 if it is absent; raise ImageError if damaged."""
    try:
        return max(0, int(dataset.get(keyword) or 0))
    except Exception as error:  # pydicom parses a value at its first access
        raise ImageError(f"{name}: damaged, {keyword} is no whole number") from error
