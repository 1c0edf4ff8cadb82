"""DICOM bytes -> array, as a reading room shows it; with the `medical` extra (pydicom).

Of the header only what shapes the pixels is read. Errors name the file and never quote the header,
or the library, which might quote it: they end up in logs.
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
"""Stands behind the preamble of every DICOM file."""
SUFFIXES = frozenset((".dcm", ".dicom"))

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")
_PIXEL_ELEMENTS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
}
"""Where enhanced files of many frames keep what others keep at the top."""


class DicomHeading(NamedTuple):
    """What a folder must know of a file without decoding it.

    Attributes:
        frames: how many pictures it holds.
        series: identifier of the examination's series; empty where the file has none.
        size: height and width.
    """

    frames: int
    series: str
    size: tuple[int, int]


class DicomReference(NamedTuple):
    """How another file refers to one picture: by identifiers, which name nobody.

    Attributes:
        study: identifier of the study; empty where the file has none.
        kind: identifier of the class of objects that the file is one of.
        instance: identifier of the file's content.
        frame: counted from 0; None in a file of one picture.
        written_on: `YES` where words are part of the picture, `NO` where not, else empty.
    """

    study: str
    sop_class: str
    instance: str
    frame: int | None
    burned_in_annotation: str = ""


def is_dicom(start: bytes) -> bool:
    """Whether a file that begins so is a DICOM file.

    >>> is_dicom(bytes(128) + b"DICM"), is_dicom(b"GIF89a")
    (True, False)
    """
    return start[PREAMBLE : PREAMBLE + len(DICOM_MAGIC)] == DICOM_MAGIC


def read_dicom_heading(stream: BytesIO | BufferedReader, name: str) -> DicomHeading:
    """Frames, series and size; raises ImageError for a file that is damaged or has no pixels."""
    with silence_warnings("pydicom"):
        dataset = _parse_dataset(stream, name, pixels=False)
        size = _read_count(dataset, "Rows", name), _read_count(dataset, "Columns", name)
        frames = _read_count(dataset, "NumberOfFrames", name) or 1
        return DicomHeading(frames, _read_text(dataset, "SeriesInstanceUID", name), size)


def read_dicom_reference(path: Path, frame: int = 0) -> DicomReference | None:
    """How to refer to a picture; None for files that are no DICOM or name no instance.

    Raises:
        ImageError: a DICOM file that is damaged.
    """
    with path.open("rb") as stream, silence_warnings("pydicom"):
        start = stream.read(PREAMBLE + len(DICOM_MAGIC))
        stream.seek(0)
        if not is_dicom(start) and path.suffix.lower() not in SUFFIXES:
            return None
        dataset = _parse_dataset(stream, str(path), pixels=False)
        several = _read_count(dataset, "NumberOfFrames", str(path)) > 1
        words = ("StudyInstanceUID", "SOPClassUID", "SOPInstanceUID")
        study, kind, instance = (_read_text(dataset, word, str(path)) for word in words)
        written_on = _read_text(dataset, "BurnedInAnnotation", str(path))
    if not (kind and instance):
        return None
    known = written_on if written_on in ("YES", "NO") else ""
    return DicomReference(study, kind, instance, frame if several else None, known)


def decode_dicom(
    stream: BytesIO | BufferedReader, name: str, frame: int = 0
) -> NDArray[np.float32]:
    """One frame, channels × height × width in [0, 1].

    Grey goes through the modality transform (rescale or table) and the first VOI transform (table
    or window, linear, exact or sigmoid); without one, from the lowest to the highest value that is
    no padding. MONOCHROME1 is turned over, so that bright is dense everywhere. Palettes and YBR
    become RGB.

    Raises:
        ImageError: damaged, without pixels, of an unknown kind, too small or too large, compressed
            in a way whose codec is not installed, or without such a frame.
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
        except Exception as error:  # whatever hostile headers make a transform stumble over
            raise ImageError(
                f"{name}: its transforms cannot be applied ({type(error).__name__})"
            ) from error


def _parse_dataset(stream: BytesIO | BufferedReader, name: str, *, pixels: bool) -> Dataset:
    """The header, and with `pixels` all of the file."""
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
    except Exception as error:  # whatever hostile bytes make a parser stumble over
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error
    sides = _read_count(dataset, "Rows", name), _read_count(dataset, "Columns", name)
    if all(sides) and (not pixels or any(word in dataset for word in _PIXEL_ELEMENTS)):
        return dataset
    kind = UID(_read_text(dataset, "SOPClassUID", name))
    if not kind:
        raise ImageError(f"{name}: no DICOM file, or one that is damaged or cut short")
    if "Image Storage" in kind.name:
        raise ImageError(f"{name}: damaged or cut short, an image without pixels ({kind.name})")
    what = "unknown kind" if kind.name == kind else kind.name
    raise ImageError(f"{name}: a DICOM file without pixels ({what}); choose one of an image")


def _set_transfer_syntax(dataset: Dataset) -> None:
    """Old files without a preamble do not say how they are written; the parser has found out."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        explicit = ExplicitVRLittleEndian if little else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else explicit


def _read_photometric_interpretation(dataset: Dataset, name: str) -> str:
    """The photometric interpretation, once it agrees with the number of samples."""
    kind = _read_text(dataset, "PhotometricInterpretation", name)
    samples = _read_count(dataset, "SamplesPerPixel", name) or 1
    expected = {**dict.fromkeys(GREY, 1), **dict.fromkeys(COLOUR, 3), "PALETTE COLOR": 1}
    if kind not in expected:
        known = ", ".join((*GREY, *COLOUR))
        raise ImageError(
            f"{name}: expected a photometric interpretation of {known}; got another, or none"
        )
    if samples != expected[kind]:
        raise ImageError(
            f"{name}: expected {expected[kind]} samples per pixel with {kind}, got {samples}"
        )
    return kind


def _decode_frame(dataset: Dataset, name: str, frame: int) -> NDArray[Any]:
    """Stored values of one frame: height × width, or height × width × 3 in RGB."""
    from pydicom.pixels.utils import pixel_array

    _check_codec(dataset, name)
    try:
        found: NDArray[Any] = pixel_array(dataset, index=frame)
        return found
    except Exception as error:  # whatever hostile bytes do to a codec
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error


def _check_codec(dataset: Dataset, name: str) -> None:
    """Raises ImageError for a compression that nothing here can open, and says what could."""
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
        wanted = " or ".join(each.partition(" - requires ")[2] or each for each in missing)
        raise ImageError(
            f"{name}: compressed as {syntax.name}, which needs a codec; install {wanted}"
        )


def _apply_functional_groups(dataset: Dataset, frame: int) -> None:
    """Puts a frame's own rescaling and window, or those of all frames, where others keep them."""
    places = (("SharedFunctionalGroupsSequence", 0), ("PerFrameFunctionalGroupsSequence", frame))
    for sequence, number in places:
        items = dataset.get(sequence) or ()
        if number >= len(items):
            continue
        for group, words in _GROUPS.items():
            for item in (items[number].get(group) or ())[:1]:
                for word in words:
                    if word in item:
                        dataset[word] = item[word]


def _check_transforms(dataset: Dataset, name: str) -> None:
    """Raises ImageError for a rescaling or a window in which everything would be the same."""
    for word in ("RescaleSlope", "WindowWidth"):
        if dataset.get(word) is not None:
            try:
                value = _first_number(dataset[word].value)
            except (TypeError, ValueError, IndexError) as error:
                raise ImageError(f"{name}: damaged, {word} is no number") from error
            if not (value > 0 or (value < 0 and word == "RescaleSlope")):
                raise ImageError(f"{name}: {word} is {value:g}, which shows nothing; correct it")


def _render_grey(values: NDArray[Any], dataset: Dataset, kind: str) -> NDArray[np.float32]:
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    padding = _find_padding(values, dataset)
    values = apply_modality_lut(values, dataset)
    tables = dataset.get("VOILUTSequence")
    if tables and tables[0].get("LUTData") is not None:
        bits = int(tables[0].LUTDescriptor[2])
        shown = apply_voi(values, dataset) / (2.0**bits - 1)
    elif dataset.get("WindowWidth") is not None and dataset.get("WindowCenter") is not None:
        shown = _apply_window(values.astype(np.float64), dataset)
    else:
        known = values[~padding] if not padding.all() else values
        low, high = float(known.min()), float(known.max())
        shown = (values - low) / (high - low or 1.0)
    shown = np.clip(shown, 0, 1)
    shown[padding] = 0
    if kind == "MONOCHROME1":
        shown = np.where(padding, 0, 1 - shown)
    return shown[None].astype(np.float32)


def _find_padding(values: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_]:
    """Where the film ends and filling begins (Pixel Padding Value, with its range limit)."""
    one = dataset.get("PixelPaddingValue")
    if one is None:
        return np.zeros(values.shape, bool)
    other = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((int(one), int(one if other is None else other)))
    found: NDArray[np.bool_] = (values >= low) & (values <= high)
    return found


def _apply_window(values: NDArray[np.float64], dataset: Dataset) -> NDArray[np.float64]:
    """The first window, to [0, 1]: DICOM PS3.3, C.11.2.1.2 and C.11.2.1.3."""
    centre, width = (_first_number(dataset[word].value) for word in ("WindowCenter", "WindowWidth"))
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    if function == "SIGMOID":
        return np.asarray(1 / (1 + np.exp(-4 * (values - centre) / width)))
    if function == "LINEAR_EXACT":
        return (values - centre) / width + 0.5
    return (values - (centre - 0.5)) / max(width - 1, 1e-9) + 0.5


def _first_number(value: Any) -> float:
    """A number, or the first of several."""
    try:
        return float(value)
    except TypeError:
        return float(value[0])


def _render_colour(values: NDArray[Any], dataset: Dataset, kind: str) -> NDArray[np.float32]:
    from pydicom.pixels.processing import apply_color_lut

    if kind == "PALETTE COLOR":
        values = apply_color_lut(values, dataset)
        full = float(np.iinfo(values.dtype).max)
    else:
        full = 2.0 ** int(dataset.BitsStored) - 1
    return np.moveaxis(values[..., :3], 2, 0).astype(np.float32) / np.float32(full)


def _read_text(dataset: Dataset, word: str, name: str) -> str:
    """A word of the header; empty where it says nothing. Damage shows when it is read."""
    try:
        return str(dataset.get(word) or "")
    except Exception as error:  # a value of an unknown kind, of rubbish
        raise ImageError(f"{name}: damaged, {word} cannot be read") from error


def _read_count(dataset: Dataset, word: str, name: str) -> int:
    """A whole number of the header; 0 where it says nothing. Damage shows when it is read."""
    try:
        return max(0, int(dataset.get(word) or 0))
    except Exception as error:  # a word of another kind, of several values, of rubbish
        raise ImageError(f"{name}: damaged, {word} is no whole number") from error
