"""Decode DICOM images as a radiologist's viewer shows them; needs the `medical` extra (pydicom).

Only the parts of the header that shape the pixels are read. Errors name the file and never quote
the header, or a message of the library that may quote it, because errors end up in logs.
"""

from __future__ import annotations

from io import BufferedReader, BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from apercu.errors import ImageError
from apercu.images.formats.decoder_errors import silence_warnings
from apercu.images.formats.dicom_header import (
    apply_functional_groups,
    dicom_errors,
    parse_dataset,
    read_count,
    read_text,
)
from apercu.images.formats.dicom_pixels import GREY, check_codec, decode_frame, describe_pixels
from apercu.images.formats.dicom_rendering import (
    read_frame_count,
    read_pixel_aspect,
    render_colour,
    render_grey,
)
from apercu.images.limits import check_size

PREAMBLE = 128
DICOM_MAGIC = b"DICM"
"""Bytes that follow the preamble of every DICOM file."""
SUFFIXES = frozenset((".dcm", ".dicom"))


class DicomFrame(NamedTuple):
    """One frame of a file.

    Attributes:
        pixels: pixels in [0, 1], `channels × height × width`.
        aspect: height of a pixel divided by its width.
        frames: number of frames in the file.
    """

    pixels: NDArray[np.float32]
    aspect: float
    frames: int


class DicomHeading(NamedTuple):
    """The parts of a header that are needed to list a folder.

    Attributes:
        frames: number of pictures in the file.
        series: identifier of the series of the examination; empty if the file has none.
        size: the (height, width) in pixels.
    """

    frames: int
    series: str
    size: tuple[int, int]


class DicomReference(NamedTuple):
    """The identifiers by which another file refers to a picture; they do not name the patient.

    Attributes:
        study: identifier of the study; empty if the file has none.
        sop_class: identifier of the kind of DICOM object.
        instance: identifier of the object.
        frame: index of the frame; None in a file of one picture.
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
        dataset = parse_dataset(stream, name, pixels=False)
        size = read_count(dataset, "Rows", name), read_count(dataset, "Columns", name)
        return DicomHeading(
            read_frame_count(dataset, name), read_text(dataset, "SeriesInstanceUID", name), size
        )


def read_dicom_reference(path: Path, frame: int = 0) -> DicomReference | None:
    """Read the identifiers of a picture.

    Args:
        path: the file.
        frame: index of the frame.

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
        dataset = parse_dataset(stream, str(path), pixels=False)
        several = read_count(dataset, "NumberOfFrames", str(path)) > 1
        study = read_text(dataset, "StudyInstanceUID", str(path))
        sop_class = read_text(dataset, "SOPClassUID", str(path))
        instance = read_text(dataset, "SOPInstanceUID", str(path))
        burned_in = read_text(dataset, "BurnedInAnnotation", str(path))
    if not (sop_class and instance):
        return None
    if burned_in not in ("YES", "NO"):
        burned_in = ""
    return DicomReference(study, sop_class, instance, frame if several else None, burned_in)


def decode_dicom(stream: BytesIO | BufferedReader, name: str, frame: int = 0) -> DicomFrame:
    """Decode one frame as a viewer shows it.

    Grey goes through the modality transform (rescale or table) and the first VOI transform (table,
    or window: linear, exact or sigmoid). Without a VOI transform it is scaled from the lowest to
    the highest value, padding excluded. MONOCHROME1 is inverted, so that dense tissue is bright in
    every file; so is any other with the presentation INVERSE. Palettes and YBR become RGB.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.
        frame: index of the frame.

    Returns:
        The pixels, how high they are compared with their width, and the number of frames.

    Raises:
        ImageError: the file is damaged, has no pixels, is of an unknown kind, too small or too
            large, needs a codec that is not installed, or has no such frame.
    """
    with silence_warnings("pydicom"):
        dataset = parse_dataset(stream, name, pixels=True)
        sides = (read_count(dataset, keyword, name) for keyword in ("Rows", "Columns"))
        check_size(name, *sides)
        check_codec(dataset, name)
        pixels = describe_pixels(dataset, name)
        if not 0 <= frame < pixels.frames:
            raise ImageError(f"{name}: there is no frame {frame + 1}, the file has {pixels.frames}")
        values = decode_frame(dataset, pixels, name, frame)
        apply_functional_groups(dataset, frame, name)
        render = render_grey if pixels.kind in GREY else render_colour
        try:
            rendered = render(values, dataset, pixels, name)
        except dicom_errors() as error:  # elements that contradict each other
            raise ImageError(
                f"{name}: its transforms cannot be applied ({type(error).__name__})"
            ) from error
        return DicomFrame(rendered, read_pixel_aspect(dataset, name), pixels.frames)
