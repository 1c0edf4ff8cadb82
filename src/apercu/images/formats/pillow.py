"""Decode the common picture formats with Pillow."""

from __future__ import annotations

from contextlib import suppress
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from apercu.errors import ImageError
from apercu.images.limits import MAX_PIXELS, check_size
from apercu.images.orientation import UPRIGHT
from apercu.images.warnings import silence_warnings

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")

_MAX_SIXTEEN_BIT = 65535
_DIRECT_MODES = {"1", "L", "RGB", "F"}


class DecodedPicture(NamedTuple):
    """Pixels of a file before they are turned upright.

    Attributes:
        pixels: The pixels, `channels × height × width`; integers are scaled to [0, 1].
        orientation: EXIF orientation of the file, 1 to 8.
        pending: The orientation that is still to be applied; Pillow turns TIFF files by itself.
    """

    pixels: NDArray[np.float32]
    orientation: int = UPRIGHT
    pending: int = UPRIGHT


def decode_pillow(stream: BytesIO | BufferedReader, name: str) -> DecodedPicture:
    """Decode the first frame of a picture.

    Transparency is composited over white, and CMYK and palettes become RGB. Of the extra bands of
    a TIFF file Pillow drops a fourth and refuses more.

    Args:
        stream: The bytes of the file.
        name: Name of the file, for error messages.

    Returns:
        The pixels and the EXIF orientation.

    Raises:
        ImageError: the file is not a picture, damaged, cut short, too small or too large.
    """
    with silence_warnings("PIL"):
        try:
            with Image.open(stream, formats=FORMATS) as image:
                check_size(name, image.height, image.width)
                turned_by_pillow = _read_orientation(image) if image.format == "TIFF" else UPRIGHT
                image.load()
                pending = _read_orientation(image)
                orientation = max(turned_by_pillow, pending)
                return DecodedPicture(_read_pixels(image, name), orientation, pending)
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name}: too large, expected at most {MAX_PIXELS // 1_000_000} megapixels; "
                "resize it first"
            ) from error
        except UnidentifiedImageError as error:
            formats = ", ".join(FORMATS)
            raise ImageError(
                f"{name}: not an image, expected {formats}, DICOM, FITS, "
                "or .npy for any number of channels"
            ) from error
        except Exception as error:  # hostile bytes may raise anything
            reason = " ".join(str(error).split())
            raise ImageError(f"{name}: damaged or cut short ({reason})") from error


def _read_pixels(image: Image.Image, name: str) -> NDArray[np.float32]:
    """Convert an image to an array, `channels × height × width`; integers are scaled to [0, 1]."""
    if image.mode.startswith("I"):
        return _scale_sixteen_bit(np.asarray(image), name)
    if "transparency" in image.info or image.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        image = _composite_over_white(image)
    elif image.mode not in _DIRECT_MODES:
        image = image.convert("RGB")
    array = np.asarray(image)
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    channels_first = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    pixels = channels_first.astype(np.float32, order="C")
    pixels /= np.float32(scale)
    return pixels


def _scale_sixteen_bit(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """Scale one channel of 16-bit integers to [0, 1]; raise ImageError if there are wider ones."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_SIXTEEN_BIT:
        raise ImageError(
            f"{name}: expected integers of 16 bits, 0 to {_MAX_SIXTEEN_BIT}, got {low} to {high}"
        )
    return values.astype(np.float32)[None] / np.float32(_MAX_SIXTEEN_BIT)


def _composite_over_white(image: Image.Image) -> Image.Image:
    """Composite a transparent image over white; grey stays grey."""
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("L" if grey else "RGB")


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8; damaged EXIF counts as upright."""
    with suppress(Exception):
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return UPRIGHT
