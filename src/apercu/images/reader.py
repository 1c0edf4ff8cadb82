"""One file, or its bytes -> Picture: decoded, checked, upright, with the channels asked for."""

from __future__ import annotations

from io import BufferedReader, BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from apercu.errors import ImageError
from apercu.images.formats.dicom import DICOM_MAGIC as DICOM
from apercu.images.formats.dicom import PREAMBLE, decode_dicom, is_dicom
from apercu.images.formats.dicom import SUFFIXES as DICOM_SUFFIXES
from apercu.images.formats.fits import SUFFIXES as FITS_SUFFIXES
from apercu.images.formats.fits import decode_fits, order_bands
from apercu.images.formats.fits_hdus import is_fits
from apercu.images.formats.npy import NPY_MAGIC, decode_npy
from apercu.images.formats.pillow import decode_pillow
from apercu.images.names import has_suffix
from apercu.images.orientation import UPRIGHT, turn_picture
from apercu.types import Picture

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif", ".npy")
) | (DICOM_SUFFIXES | FITS_SUFFIXES)
"""Names, in lower case, by which a folder's pictures are known; inside a file its bytes decide."""

LUMA = (0.299, 0.587, 0.114)
"""What red, green and blue add to brightness (ITU-R BT.601)."""
_ROUNDING = 1e-6


class StoredPicture(NamedTuple):
    """A picture, upright, and how it lay in its file: EXIF orientation, (height, width)."""

    picture: Picture
    orientation: int
    size: tuple[int, int]


class ReadOptions(NamedTuple):
    """What the reader is asked for: channels (None, as the file has them), frame, FITS bands."""

    channels: int | None = 3
    frame: int = 0
    bands: tuple[str, ...] | None = None


_DEFAULT_OPTIONS = ReadOptions()


def read_picture(
    source: str | Path | bytes, *, channels: int | None = 3, frame: int = 0
) -> Picture:
    """Reads JPEG, PNG, TIFF, WebP, BMP, GIF (first frame), `.npy`, DICOM (any frame) or FITS.

    Channels × height × width, values in [0, 1]: 8 and 16 bits are scaled, floats must lie there
    already, DICOM goes through its own window. EXIF rotation is
    applied, transparency is laid over white. With `channels` grey becomes RGB or RGB grey (BT.601
    luma) where asked; None keeps what the file has. FITS alone gives raw counts, outside [0, 1]
    and NaN where nothing is known, its bands as they are. Raises ImageError for a file that is
    missing, no image, damaged, too small or too large, not finite, not in [0, 1], or of other
    channels.
    """
    return read_stored(source, ReadOptions(channels, frame)).picture


def read_stored(
    source: str | Path | bytes, options: ReadOptions = _DEFAULT_OPTIONS
) -> StoredPicture:
    """Like `read_picture`, with what is needed to follow boxes from the file to the picture."""
    if isinstance(source, bytes):
        return _read(BytesIO(source), "image", options)
    try:
        with Path(source).open("rb") as stream:
            return _read(stream, str(source), options)
    except OSError as error:
        raise ImageError(f"{source}: cannot be read ({error.strerror})") from error


def _read(stream: BytesIO | BufferedReader, name: str, asked: ReadOptions) -> StoredPicture:
    start = stream.read(PREAMBLE + len(DICOM))
    stream.seek(0)
    if is_fits(start) or has_suffix(name, FITS_SUFFIXES):
        return _read_fits(stream, name, asked)
    if is_dicom(start) or Path(name).suffix.lower() in DICOM_SUFFIXES:
        array, stored, pending = decode_dicom(stream, name, asked.frame), UPRIGHT, UPRIGHT
    elif start.startswith(NPY_MAGIC):
        array, stored, pending = decode_npy(stream, name), UPRIGHT, UPRIGHT
    else:
        array, stored, pending = decode_pillow(stream, name)
    picture = turn_picture(_check_pixels(array, name), pending)
    height, width = picture.shape[1:]
    size = (width, height) if stored >= 5 else (height, width)
    return StoredPicture(_convert_channels(picture, asked.channels, name), stored, size)


def _read_fits(stream: BytesIO | BufferedReader, name: str, asked: ReadOptions) -> StoredPicture:
    """A FITS file's bands in the order asked for, raw counts as they are."""
    names, pixels = decode_fits(stream, name)
    picks = order_bands(names, asked.bands, asked.channels, name)
    picture = torch.from_numpy(pixels[picks])
    return StoredPicture(picture, UPRIGHT, (picture.shape[1], picture.shape[2]))


def _check_pixels(array: NDArray[np.float32], name: str) -> Picture:
    """The array as a tensor of its own, once it is known to be finite and in [0, 1]."""
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        wrong = int(np.count_nonzero(~np.isfinite(array)))
        raise ImageError(
            f"{name}: expected finite pixels, got {wrong} that are NaN or infinite; "
            "replace them before"
        )
    if low < -_ROUNDING or high > 1 + _ROUNDING:
        raise ImageError(f"{name}: expected pixels in [0, 1], got [{low:g}, {high:g}]; scale them")
    return torch.from_numpy(np.ascontiguousarray(array)).clamp_(0, 1)


def _convert_channels(
    picture: Float[Tensor, "stored height width"], channels: int | None, name: str
) -> Picture:
    """Grey to RGB or RGB to grey; any other difference in channels is an error."""
    have = picture.shape[0]
    if channels is None or channels == have:
        return picture
    if (have, channels) == (1, 3):
        return picture.repeat(3, 1, 1)
    if (have, channels) == (3, 1):
        weights = torch.tensor(LUMA)[:, None, None]
        return (picture * weights).sum(0, keepdim=True).clamp_(0, 1)
    raise ImageError(
        f"{name}: expected {channels} channels, got {have}; only grey and RGB can be converted"
    )
