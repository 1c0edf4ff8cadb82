"""`read_picture`: decode a file, check its pixels, turn it upright, and convert its channels.

`convert_picture` does the same for what is in memory already: arrays, Pillow images and tensors.
"""

from __future__ import annotations

from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from apercu.errors import ImageError, format_shape
from apercu.images.formats.dicom import DICOM_MAGIC, PREAMBLE, decode_dicom, is_dicom
from apercu.images.formats.dicom import SUFFIXES as DICOM_SUFFIXES
from apercu.images.formats.fits import SUFFIXES as FITS_SUFFIXES
from apercu.images.formats.fits import decode_fits
from apercu.images.formats.fits_hdus import is_fits
from apercu.images.formats.npy import NPY_MAGIC, decode_npy
from apercu.images.formats.pillow import (
    DecodedPicture,
    decode_image,
    decode_mask,
    decode_pillow,
)
from apercu.images.formats.tiff import is_tiff
from apercu.images.limits import check_size
from apercu.images.names import has_suffix
from apercu.images.resizing import UPRIGHT, make_pixels_square, turn_picture
from apercu.types import Picture

SUFFIXES = (
    DICOM_SUFFIXES
    | FITS_SUFFIXES
    | {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"),
        *(".avif", ".heic", ".heif", ".npy", ".jif", ".jfi", ".apng", ".hif"),
    }
)
"""Suffixes of the pictures in a folder, in lower case; the bytes of a file decide its format."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the luminance (ITU-R BT.601)."""

_ROUNDING = 1e-6
_PIXEL_TOLERANCE = 1e-3  # of arrays and tensors, as for a classifier


class StoredPicture(NamedTuple):
    """An upright picture, and how it is stored in its file.

    Attributes:
        picture: the picture, `channels × height × width`.
        orientation: EXIF orientation of the file, 1 to 8.
        size: the (height, width) in the file, before its pixels are made square and it is turned
            upright.
        frames: number of frames of a DICOM file or pages of a TIFF file; 1 for other formats.
        moves: whether the file is an animation (GIF, PNG, WebP, AVIF), and this its first frame.
    """

    picture: Picture
    orientation: int
    size: tuple[int, int]
    frames: int = 1
    moves: bool = False

    @property
    def upright_size(self) -> tuple[int, int]:
        """The stored (height, width) after the picture is turned."""
        return self.size[::-1] if self.orientation >= 5 else self.size


class ReadOptions(NamedTuple):
    """How to read a file.

    Attributes:
        channels: channels of the picture; None keeps those of the file.
        frame: index of the frame in a DICOM file, or of the page in a TIFF file.
        bands: names of the channels in a FITS file; None keeps the order of the bands.
    """

    channels: int | None = 3
    frame: int = 0
    bands: tuple[str, ...] | None = None


_DEFAULT_OPTIONS = ReadOptions()


def read_picture(
    source: str | Path | bytes, *, channels: int | None = 3, frame: int = 0
) -> Picture:
    """Read JPEG, PNG, TIFF, WebP, AVIF, HEIC, BMP, GIF (first frame), `.npy`, DICOM or FITS.

    8 and 16 bits are scaled to [0, 1], floats must be in [0, 1] already, and DICOM goes through
    its own window. EXIF rotation is applied, transparency is composited over white, and a picture
    whose pixels are not square by its own header is stretched. FITS gives raw counts, with NaN
    where nothing is known.

    Args:
        source: path of the file, or its bytes.
        channels: channels of the picture: grey is repeated as RGB, RGB becomes grey (BT.601
            luma), the bands of FITS are not converted. None keeps the channels of the file.
        frame: index of the frame in a DICOM file, or of the page in a TIFF file.

    Returns:
        A picture, `channels × height × width`, in [0, 1] (FITS: raw counts).

    Raises:
        ImageError: the file is missing, not an image, damaged, too small or too large, not
            finite, not in [0, 1], or of other channels.
    """
    return read_stored(source, ReadOptions(channels, frame)).picture


def read_stored(
    source: str | Path | bytes, options: ReadOptions = _DEFAULT_OPTIONS
) -> StoredPicture:
    """Read a picture as `read_picture` does, with its stored orientation and size.

    Boxes that were drawn on the stored picture need these two to be turned with it.

    Args:
        source: path of the file, or its bytes.
        options: how to read the file.

    Returns:
        The picture, its orientation and its stored size.

    Raises:
        ImageError: as in `read_picture`.
    """
    if isinstance(source, bytes):
        return _read(BytesIO(source), "image", options)
    try:
        with Path(source).open("rb") as stream:
            return _read(stream, str(source), options)
    except OSError as error:
        raise ImageError(f"{source}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        if "\0" not in str(source):
            raise
        raise ImageError(f"{str(source)!r}: is no name of a file, as it holds a NUL") from error


def convert_image(image: Image.Image, channels: int | None, name: str = "image") -> Picture:
    """Convert an opened Pillow image as `read_picture` reads a file, but do not turn it upright.

    Args:
        image: the image.
        channels: channels of the picture; None keeps those of the image.
        name: a name for error messages.

    Returns:
        A picture, `channels × height × width`, in [0, 1].

    Raises:
        ImageError: as in `read_picture`.
    """
    return convert_channels(_check_pixels(decode_image(image, name), name), channels, name)


def read_mask(path: Path) -> Bool[Tensor, "height width"]:
    """Read a mask: True where it is opaque, or, in a file without transparency, not black.

    Args:
        path: the file.

    Returns:
        The mask as it is stored, `height × width`.

    Raises:
        ImageError: the file is missing, not an image, or damaged.
    """
    try:
        with path.open("rb") as stream:
            _check_not_empty(stream.peek(1), str(path))
            return torch.from_numpy(np.ascontiguousarray(decode_mask(stream, str(path))))
    except OSError as error:
        raise ImageError(f"{path}: cannot be read ({error.strerror})") from error


def _read(stream: BytesIO | BufferedReader, name: str, options: ReadOptions) -> StoredPicture:
    """Choose the decoder by the first bytes, and by the suffix where the bytes do not tell."""
    start = stream.read(PREAMBLE + len(DICOM_MAGIC))
    stream.seek(0)
    _check_not_empty(start, name)
    if is_fits(start) or has_suffix(name, FITS_SUFFIXES):
        return _read_fits(stream, name, options)
    if is_dicom(start) or Path(name).suffix.lower() in DICOM_SUFFIXES:
        frame = decode_dicom(stream, name, options.frame)
        decoded = DecodedPicture(frame.pixels, aspect=frame.aspect, frames=frame.frames)
    elif is_tiff(start):
        decoded = decode_pillow(stream, name, options.frame, options.channels)
    else:
        _check_first(options.frame, name)
        is_array = start.startswith(NPY_MAGIC)
        decoded = (
            DecodedPicture(decode_npy(stream, name)) if is_array else decode_pillow(stream, name)
        )
    height, width = decoded.pixels.shape[1:]
    is_turned = decoded.orientation >= 5 and decoded.pending != decoded.orientation
    size = (width, height) if is_turned else (height, width)
    square = make_pixels_square(_check_pixels(decoded.pixels, name), decoded.aspect, name)
    picture = turn_picture(square, decoded.pending)
    picture = convert_channels(picture, options.channels, name)
    return StoredPicture(picture, decoded.orientation, size, decoded.frames, decoded.moves)


def _check_not_empty(start: bytes, name: str) -> None:
    """Raise ImageError if a file has no first byte, whatever its suffix is."""
    if not start:
        raise ImageError(f"{name}: not an image, as it is empty (0 bytes); copy it again")


def _check_first(frame: int, name: str) -> None:
    """Raise ImageError if another frame than the first is to be read of a format without frames."""
    if frame != 0:
        raise ImageError(
            f"{name}: there is no frame {frame + 1}; only DICOM and TIFF files have several"
        )


def _read_fits(stream: BytesIO | BufferedReader, name: str, options: ReadOptions) -> StoredPicture:
    """Read the bands of a FITS file as raw counts, in the order of `options.bands`."""
    _check_first(options.frame, name)
    planes = decode_fits(stream, name, options.bands, options.channels)
    picture = torch.from_numpy(planes.pixels)
    return StoredPicture(picture, UPRIGHT, (picture.shape[1], picture.shape[2]))


def _check_pixels(array: NDArray[np.float32], name: str) -> Picture:
    """Copy the pixels to a tensor; raise ImageError if they are not finite or not in [0, 1]."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        count = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(
            f"{name}: expected finite pixels, got {count} that are NaN or infinite; "
            "replace them before"
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(f"{name}: expected pixels in [0, 1], got [{low:g}, {high:g}]; scale them")
    return torch.from_numpy(np.ascontiguousarray(array)).clamp_(0, 1)


def convert_channels(
    picture: Float[Tensor, "stored height width"], channels: int | None, name: str
) -> Picture:
    """Convert grey to RGB or RGB to grey.

    Args:
        picture: the picture, `channels × height × width`.
        channels: the number of channels that is wanted; None keeps those of the picture.
        name: a name for error messages.

    Returns:
        The picture with these channels.

    Raises:
        ImageError: it would be any other change of channels, or RGB is not in [0, 1].
    """
    stored = picture.shape[0]
    if channels is None or channels == stored:
        return picture
    if (stored, channels) == (1, 3):
        return picture.repeat(3, 1, 1)
    if (stored, channels) == (3, 1):
        low, high = (bound.item() for bound in picture.aminmax())
        if not (low >= -_PIXEL_TOLERANCE and high <= 1 + _PIXEL_TOLERANCE):  # also refuses NaN
            raise ImageError(
                f"{name}: expected pixels in [0, 1], which become grey, got [{low:.4g}, {high:.4g}]"
                "; scale them"
            )
        weights = picture.new_tensor(LUMA)[:, None, None]
        return (picture * weights).sum(0, keepdim=True).clamp_(0, 1)
    raise ImageError(
        f"{name}: expected {channels} channel{'s' * (channels != 1)}, got {stored}; only grey "
        "and RGB can be converted"
    )


def convert_array(array: NDArray[Any]) -> Picture:
    """Return an array as a picture, `channels × height × width`.

    Args:
        array: `height × width × channels` or `height × width`; uint8, or floats that are kept as
            they are.

    Returns:
        Floats, `channels × height × width`.

    Raises:
        ImageError: it has other axes or another type, or is too small or too large.
    """
    if array.ndim not in (2, 3):
        raise ImageError(
            f"images: expected an array height × width × channels, got {format_shape(array.shape)}"
        )
    if array.dtype != np.uint8 and not np.issubdtype(array.dtype, np.floating):
        raise ImageError(
            f"images: expected uint8 or floats in [0, 1], got {_advise_on(array.dtype)}"
        )
    check_size("images", array.shape[0], array.shape[1], 1 if array.ndim == 2 else array.shape[2])
    values = np.atleast_3d(array).transpose(2, 0, 1).astype(np.float32, order="C")
    if not len(values):
        raise ImageError("images: expected an array height × width × channels, got no channel")
    return torch.from_numpy(values / np.float32(255) if array.dtype == np.uint8 else values)


def _advise_on(dtype: np.dtype[Any]) -> str:
    """Return the name of a type, and how its values become uint8 or floats."""
    if dtype == np.bool_:
        return "bool; array.astype('float32') makes True white"
    is_whole = np.issubdtype(dtype, np.integer)
    return f"{dtype}; {'divide by the largest possible value' if is_whole else 'give numbers'}"


def convert_picture(picture: Any, channels: int) -> Picture:
    """Return one picture of any kind as floats, `channels × height × width`.

    Args:
        picture: an array with the channels last, a Pillow image, or a tensor with them first.
        channels: the number of channels that is wanted; grey and RGB are converted.

    Returns:
        Floats, `channels × height × width`; the range of arrays and tensors is not checked here.

    Raises:
        ImageError: it is no picture, or one of other channels, axes or types.
    """
    if isinstance(picture, Image.Image):
        return convert_image(picture, channels)
    if isinstance(picture, np.ndarray):
        advice = "array.transpose(1, 2, 0) puts the channels last"
        return _convert_channels_of(convert_array(picture), channels, advice)
    if not isinstance(picture, Tensor):
        raise ImageError(
            "images: expected tensors, numpy arrays or Pillow images, got "
            f"{type(picture).__name__}; open files with apercu.open_images"
        )
    if picture.ndim != 3 or not picture.is_floating_point() or not len(picture):
        kind = str(picture.dtype).removeprefix("torch.")
        raise ImageError(
            "images: expected a tensor channels × height × width of floats in [0, 1], got "
            f"{format_shape(picture.shape)} of {kind}"
        )
    check_size("images", picture.shape[1], picture.shape[2], len(picture))
    advice = "tensor.permute(2, 0, 1) puts the channels first"
    return _convert_channels_of(picture.float(), channels, advice)


def _convert_channels_of(
    picture: Float[Tensor, "stored height width"], channels: int, advice: str
) -> Picture:
    """Convert channels; the error of a picture whose channels are another axis ends with advice."""
    try:
        return convert_channels(picture, channels, "images")
    except ImageError as error:
        others = picture.shape[1:]
        counts = {1, 3, channels}
        if picture.shape[0] in counts or counts.isdisjoint(others):
            raise
        raise ImageError(f"{error}; {advice}") from None
