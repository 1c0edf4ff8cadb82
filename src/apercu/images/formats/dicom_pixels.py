"""Decode the stored values of a frame of a DICOM file, after its header and its stream agree."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.formats.dicom_header import (
    PIXEL_ELEMENTS,
    dicom_errors,
    read_count,
    read_text,
    read_value,
)
from apercu.images.formats.jpeg import (
    JPEG_MAGIC,
    check_scans,
    ends_in_grey,
    is_cut_short,
    read_codestream,
)

if TYPE_CHECKING:
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR")

_VIDEO = ("MPEG", "HEVC", "SMPTE")
"""Words in the names of the transfer syntaxes of films."""
_RLE_HEADER = 64  # bytes
_FLOATS = {"FloatPixelData": 32, "DoubleFloatPixelData": 64}


class PixelDescription(NamedTuple):
    """How the values of a file are stored.

    Attributes:
        kind: photometric interpretation.
        height: height in pixels.
        width: width in pixels.
        frames: number of frames.
        samples: values per pixel.
        allocated: bits per value in the file.
        stored: bits of a value that count.
        high_bit: the highest of these.
        signed: whether values are signed.
    """

    kind: str
    height: int
    width: int
    frames: int
    samples: int
    allocated: int
    stored: int
    high_bit: int
    signed: bool

    @property
    def frame_bytes(self) -> float:
        """Bytes of an uncompressed frame."""
        return self.height * self.width * self.samples * self.allocated / 8


def describe_pixels(dataset: Dataset, name: str) -> PixelDescription:
    """Read how values are stored, and write what the file leaves out into the dataset.

    Samples per pixel follow from the photometric interpretation, bits stored from bits allocated,
    the high bit from bits stored; values are unsigned, colours stand beside each other.

    Args:
        dataset: the elements of the file.
        name: name of the file, for error messages.

    Returns:
        How the values are stored.

    Raises:
        ImageError: an element is damaged, or nothing else can tell what a missing one would be.
    """
    kind = _read_photometric_interpretation(dataset, name)
    height, width, frames, samples = (
        read_count(dataset, keyword, name)
        for keyword in ("Rows", "Columns", "NumberOfFrames", "SamplesPerPixel")
    )
    expected = 1 if kind in (*GREY, "PALETTE COLOR") else 3
    if samples not in (0, expected):
        raise ImageError(
            f"{name}: expected {expected} samples per pixel with {kind}, got {samples}"
        )
    allocated = _find_bits_allocated(dataset, height * width * (frames or 1) * expected, name)
    stored, high_bit = _find_bits_stored(dataset, allocated, name)
    signed = read_count(dataset, "PixelRepresentation", name)
    if signed > 1:
        raise ImageError(f"{name}: damaged, PixelRepresentation is {signed}, expected 0 or 1")
    described = PixelDescription(
        kind=kind,
        height=height,
        width=width,
        frames=frames or 1,
        samples=expected,
        allocated=allocated,
        stored=stored,
        high_bit=high_bit,
        signed=signed == 1,
    )
    _complete(dataset, described, name)
    return described


def _find_bits_allocated(dataset: Dataset, values: int, name: str) -> int:
    """Return the bits per value in the file, which follow from its bytes where it does not say.

    Args:
        dataset: the elements of the file.
        values: number of values of all frames.
        name: name of the file, for error messages.

    Returns:
        The number of bits.
    """
    keyword = next(keyword for keyword in PIXEL_ELEMENTS if keyword in dataset)
    content = read_value(dataset, keyword, name)
    if not isinstance(content, bytes | bytearray):
        raise ImageError(f"{name}: damaged, {keyword} holds no bytes")
    allocated = _FLOATS.get(keyword) or read_count(dataset, "BitsAllocated", name)
    if not allocated:
        allocated = {1: 8, 2: 16}.get(math.floor(len(content) / max(1, values)), 0)
        if not allocated or dataset.file_meta.TransferSyntaxUID.is_compressed:
            raise ImageError(f"{name}: lacks BitsAllocated, and its pixels do not tell; add it")
    return allocated


def _find_bits_stored(dataset: Dataset, allocated: int, name: str) -> tuple[int, int]:
    """Return how many bits of a value count, and the highest of these."""
    stored = read_count(dataset, "BitsStored", name) or allocated
    if stored > allocated or (allocated != 1 and allocated % 8) or allocated > 64:
        raise ImageError(
            f"{name}: damaged, BitsStored is {stored} and BitsAllocated {allocated}; expected "
            "1, 8, 16 or 32 bits allocated, and no more stored"
        )
    has_high_bit = read_value(dataset, "HighBit", name) is not None
    high_bit = read_count(dataset, "HighBit", name) if has_high_bit else stored - 1
    if not stored - 1 <= high_bit < allocated:
        raise ImageError(
            f"{name}: damaged, HighBit is {high_bit}; expected {stored - 1} to {allocated - 1}"
        )
    return stored, high_bit


def _complete(dataset: Dataset, pixels: PixelDescription, name: str) -> None:
    """Write the description into the dataset, for pydicom to find."""
    values: dict[str, str | int] = {
        "PhotometricInterpretation": pixels.kind,
        "SamplesPerPixel": pixels.samples,
        "BitsAllocated": pixels.allocated,
        "BitsStored": pixels.stored,
        "HighBit": pixels.high_bit,
        "PixelRepresentation": int(pixels.signed),
    }
    if pixels.samples > 1:
        values["PlanarConfiguration"] = min(1, read_count(dataset, "PlanarConfiguration", name))
    for keyword, value in values.items():
        if keyword in dataset:
            del dataset[keyword]  # it may be of another kind
        setattr(dataset, keyword, value)


def _read_photometric_interpretation(dataset: Dataset, name: str) -> str:
    """Read the photometric interpretation; raise ImageError if it is not one that is known."""
    kind = read_text(dataset, "PhotometricInterpretation", name).upper().replace("_COLOR", " COLOR")
    if kind in (*GREY, *COLOUR):
        return kind
    interpretations = ", ".join((*GREY, *COLOUR))
    if not kind:
        raise ImageError(
            f"{name}: lacks PhotometricInterpretation, expected one of {interpretations}"
        )
    raise ImageError(
        f"{name}: expected a photometric interpretation of {interpretations}; got another"
    )


def check_codec(dataset: Dataset, name: str) -> None:
    """Raise ImageError if no installed codec reads the compression, and name one that does.

    Args:
        dataset: the elements of the file.
        name: name of the file, for error messages.
    """
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    syntax = dataset.file_meta.get("TransferSyntaxUID")
    if not (isinstance(syntax, UID) and syntax.is_transfer_syntax):
        raise ImageError(
            f"{name}: its transfer syntax is not one of the DICOM standard; convert the file"
        )
    if any(word in syntax.name for word in _VIDEO):
        raise ImageError(
            f"{name}: a film compressed as {syntax.name}, which pydicom does not read; "
            "extract its frames first"
        )
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


def decode_frame(dataset: Dataset, pixels: PixelDescription, name: str, frame: int) -> NDArray[Any]:
    """Decode the stored values of a frame.

    Args:
        dataset: the elements of the file.
        pixels: how its values are stored.
        name: name of the file, for error messages.
        frame: index of the frame.

    Returns:
        Stored values, `height × width`, or `height × width × 3` in RGB; bits that do not belong
        to them are removed.

    Raises:
        ImageError: the frame is damaged, cut short, of another size than the header says, or
            needs a codec that is not installed.
    """
    from pydicom.pixels.utils import pixel_array

    if dataset.file_meta.TransferSyntaxUID.is_compressed and "PixelData" in dataset:
        stream = _extract_stream(dataset, pixels, name, frame)
        _check_stream(stream, dataset, pixels, name)
    else:
        stream = b""
        _check_length(dataset, pixels, name)
    try:
        values: NDArray[Any] = pixel_array(dataset, index=frame, correct_unused_bits=False)
    except dicom_errors() as error:
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error
    if values.shape[:2] != (pixels.height, pixels.width):
        raise ImageError(f"{name}: damaged, its pixels are of another size than its header says")
    if stream.startswith(JPEG_MAGIC) and ends_in_grey(values[-1, -1]) and is_cut_short(stream):
        raise ImageError(f"{name}: cut short, the end of its JPEG stream is missing")
    return _clear_other_bits(values, pixels)


def _extract_stream(dataset: Dataset, pixels: PixelDescription, name: str, frame: int) -> bytes:
    """Return the compressed bytes of a frame."""
    from pydicom.encaps import get_frame

    offsets = [read_value(dataset, f"ExtendedOffsetTable{end}", name) for end in ("", "Lengths")]
    extended = (
        (offsets[0], offsets[1]) if all(isinstance(each, bytes) for each in offsets) else None
    )
    try:
        return get_frame(
            dataset["PixelData"].value,
            frame,
            extended_offsets=extended,
            number_of_frames=pixels.frames,
        )
    except dicom_errors() as error:
        raise ImageError(f"{name}: damaged or cut short ({type(error).__name__})") from error


def _check_stream(stream: bytes, dataset: Dataset, pixels: PixelDescription, name: str) -> None:
    """Raise ImageError if a compressed frame is not what the header says, before it is decoded."""
    from pydicom.uid import RLELossless

    if dataset.file_meta.TransferSyntaxUID == RLELossless:
        most = 2 * pixels.frame_bytes + 16 * pixels.height * pixels.samples + 1024
        if not _RLE_HEADER < len(stream) <= most:  # runs of one byte each take two
            raise ImageError(f"{name}: damaged, its runs do not fit the size of its header")
        return
    header = read_codestream(stream)
    if header is None:
        raise ImageError(f"{name}: damaged or cut short (codestream)")
    _check_bits(header.bits, dataset, pixels, name)
    if (header.height, header.width) != (pixels.height, pixels.width):
        raise ImageError(
            f"{name}: damaged, its header says {pixels.width} × {pixels.height}, its compressed "
            f"pixels {header.width} × {header.height} (width × height)"
        )
    if header.components != pixels.samples:
        raise ImageError(
            f"{name}: damaged, its header says {pixels.samples} samples per pixel, its compressed "
            f"pixels have {header.components}"
        )
    if not header.is_complete:
        raise ImageError(f"{name}: cut short, the end of its compressed pixels is missing")
    check_scans(header, name)


def _check_bits(bits: int, dataset: Dataset, pixels: PixelDescription, name: str) -> None:
    """Raise ImageError if Pillow alone is there, and cannot decode so many bits per sample."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import JPEG2000TransferSyntaxes, JPEGExtended12Bit

    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == JPEGExtended12Bit:
        bits = max(bits, pixels.stored)
    if bits > pixels.allocated:
        raise ImageError(
            f"{name}: damaged, BitsAllocated is {pixels.allocated}, its compressed pixels have "
            f"{bits} bits"
        )
    others = set(get_decoder(syntax).available_plugins) - {"pillow"}
    is_jpeg2000 = syntax in JPEG2000TransferSyntaxes
    readable = (16 if pixels.samples == 1 else 8) if is_jpeg2000 else 8
    if bits > readable and not others:
        codec = "pylibjpeg-openjpeg" if is_jpeg2000 else "pylibjpeg-libjpeg"
        raise ImageError(
            f"{name}: compressed as {syntax.name} with {bits} bits per sample, which needs a "
            f"codec; install pylibjpeg and {codec}"
        )


def _check_length(dataset: Dataset, pixels: PixelDescription, name: str) -> None:
    """Raise ImageError if uncompressed pixels are shorter than the header says."""
    keyword = next(keyword for keyword in PIXEL_ELEMENTS if keyword in dataset)
    length = len(dataset[keyword].value)
    whole = pixels.frame_bytes * pixels.frames
    if pixels.kind == "YBR_FULL_422":
        if length >= whole:  # not subsampled, whatever its name says
            dataset.PhotometricInterpretation = "YBR_FULL"
        else:
            whole = whole * 2 / 3
    if length < math.ceil(whole):
        raise ImageError(
            f"{name}: damaged or cut short, expected {math.ceil(whole)} bytes of pixels, "
            f"got {length}"
        )


def _clear_other_bits(values: NDArray[Any], pixels: PixelDescription) -> NDArray[Any]:
    """Remove the bits of a value that are none of it, such as an overlay, and extend its sign."""
    width = 8 * values.dtype.itemsize
    if values.dtype.kind not in "iu" or pixels.stored >= width:
        return values
    low_bit = pixels.high_bit + 1 - pixels.stored
    shifted = values >> low_bit if low_bit and width == pixels.allocated else values
    shift = width - pixels.stored
    return (shifted << shift) >> shift
