"""Bytes of the usual picture formats -> array, by Pillow."""

from __future__ import annotations

from contextlib import suppress
from io import BufferedReader, BytesIO
from typing import Any

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


def decode_pillow(
    stream: BytesIO | BufferedReader, name: str
) -> tuple[NDArray[np.float32], int, int]:
    """Decodes the first frame: channels × height × width, and two EXIF orientations.

    The first orientation is the file's; the second is what is still to be done, since Pillow turns
    TIFF by itself. Transparency is laid over white, CMYK and palettes become RGB, of a TIFF's extra
    bands Pillow drops a fourth and refuses more. Raises ImageError for what is no picture, damaged,
    cut short, or out of the limits of `limits.py`.
    """
    with silence_warnings("PIL"):
        try:
            with Image.open(stream, formats=FORMATS) as image:
                check_size(name, image.height, image.width)
                turned_by_pillow = _read_orientation(image) if image.format == "TIFF" else UPRIGHT
                image.load()
                pending = _read_orientation(image)
                return _read_pixels(image, name), max(turned_by_pillow, pending), pending
        except ImageError:
            raise
        except Image.DecompressionBombError as error:
            raise ImageError(
                f"{name}: too large, expected at most {MAX_PIXELS // 1_000_000} megapixels; "
                "resize it first"
            ) from error
        except UnidentifiedImageError as error:
            known = ", ".join(FORMATS)
            raise ImageError(
                f"{name}: not an image, expected {known}, DICOM, FITS, "
                "or .npy for any number of channels"
            ) from error
        except Exception as error:  # whatever hostile bytes make a decoder stumble over
            reason = " ".join(str(error).split())
            raise ImageError(f"{name}: damaged or cut short ({reason})") from error


def _read_pixels(image: Image.Image, name: str) -> NDArray[np.float32]:
    """Channels × height × width; integers scaled to [0, 1], floats as they are."""
    if image.mode.startswith("I"):
        return _scale_sixteen_bit(np.asarray(image), name)
    if "transparency" in image.info or image.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        image = _composite_over_white(image)
    elif image.mode not in _DIRECT_MODES:
        image = image.convert("RGB")
    array = np.asarray(image)
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    pixels = planes.astype(np.float32, order="C")
    pixels /= np.float32(scale)
    return pixels


def _scale_sixteen_bit(values: NDArray[Any], name: str) -> NDArray[np.float32]:
    """One grey channel of integers whose full scale is 65,535."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > _MAX_SIXTEEN_BIT:
        raise ImageError(
            f"{name}: expected integers of 16 bits, 0 to {_MAX_SIXTEEN_BIT}, got {low} to {high}"
        )
    return values.astype(np.float32)[None] / np.float32(_MAX_SIXTEEN_BIT)


def _composite_over_white(image: Image.Image) -> Image.Image:
    """What a white page shows through the transparent parts; grey stays grey."""
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, layer).convert("L" if grey else "RGB")


def _read_orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 to 8; damaged EXIF says nothing."""
    with suppress(Exception):
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
        if isinstance(value, int) and 1 <= value <= 8:
            return value
    return UPRIGHT
