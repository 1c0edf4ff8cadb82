"""Read files, Pillow images and arrays as pictures, `channels × height × width` in [0, 1]."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from apercu_runtime.errors import ImageError

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF")
LUMA = np.array((0.299, 0.587, 0.114), np.float32)
"""Weights of red, green and blue in the brightness (ITU-R BT.601)."""
_SIXTEEN_BIT = 65535
_PHOTOMETRIC = 262  # a tag of TIFF
_READY = {"1", "L", "RGB", "F"}

ImageLike: TypeAlias = str | Path | bytes | Image.Image | NDArray[Any]
"""A file or its bytes, a Pillow image, bytes as height × width (× channels), or floats in [0, 1]
as channels × height × width or height × width (× channels)."""

Pixels: TypeAlias = NDArray[np.float32]
"""A picture, `channels × height × width` in [0, 1]."""

SMALLEST_SIDE, LARGEST_AREA = 2, 100_000_000
"""Pixels; those of a file are known from its header, before anything is decoded."""


DENSE_PIXELS, MAX_PIXELS_PER_BYTE = 16_000_000, 1000
"""A file of any length may hold so many pixels, a longer one so many for each of its bytes."""

MIN_ALLOWED_SCANS, MAX_SCANS, SCANNED_PIXELS = 24, 100, 400_000_000
"""Scans that a JPEG may have at any size, scans that none may exceed, and pixels × scans."""

_LARGER = 4  # a picture in between may be so many times as large as the larger of both ends


def read_picture(source: ImageLike, channels: int) -> Pixels:
    """Read a picture with a number of channels, upright, with transparency laid over white.

    Grey is converted to RGB, and RGB to grey (BT.601 luma).

    Args:
        source: a file, its bytes, a Pillow image, or an array.
        channels: the number of channels.

    Returns:
        The picture, `channels × height × width`.

    Raises:
        ImageError: the image is missing, damaged, too small or too large, or has other channels.
    """
    if isinstance(source, np.ndarray):
        return _match_channels(_convert_array(source, channels=channels), channels, "image")
    if isinstance(source, Image.Image):
        return _match_channels(_convert_image(source), channels, "image")
    name = "image" if isinstance(source, bytes) else str(source)
    return _match_channels(_read_image(source, name), channels, name)


def check_size(name: str, height: int, width: int) -> None:
    """Raise ImageError for a picture whose sides are out of range."""
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError(
            f"{name}: too small to explain, expected at least {SMALLEST_SIDE} × {SMALLEST_SIDE} "
            f"pixels, got {width} × {height} (width × height)"
        )
    if height * width > LARGEST_AREA:
        raise ImageError(
            f"{name}: too large, expected at most {LARGEST_AREA / 1_000_000:g} megapixels, "
            f"got {width} × {height} (width × height); resize it first"
        )


def resize_picture(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """Squash the whole picture to a (height, width), bilinear with antialiasing."""
    if pixels.shape[1:] == size:
        return pixels
    height, width = size
    planes = [Image.fromarray(plane) for plane in pixels]
    before = pixels.shape[1] * pixels.shape[2]
    if pixels.shape[1] * width > _LARGER * max(before, height * width):  # tall: down first
        planes = [
            plane.resize((plane.width, height), Image.Resampling.BILINEAR) for plane in planes
        ]
    planes = [plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes]
    return np.stack([np.asarray(plane) for plane in planes])


def _read_image(source: str | Path | bytes, name: str) -> Pixels:
    try:
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
    except OSError as error:
        raise ImageError(f"{name}: cannot be read ({error.strerror})") from error
    if not content:
        raise ImageError(f"{name}: not an image, as it is empty (0 bytes); copy it again")
    try:
        with Image.open(BytesIO(content), formats=FORMATS) as image:
            check_size(name, image.height, image.width)
            _check_cost(name, image, content)
            image.load()
            return _convert_image(image)
    except ImageError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: too large, expected at most {LARGEST_AREA // 1_000_000} megapixels; "
            "resize it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image, expected {', '.join(FORMATS)}") from error
    except Exception as error:  # hostile bytes may raise anything in a decoder
        reason = " ".join(str(error).split())
        raise ImageError(f"{name}: damaged or cut short ({reason})") from error


def _check_cost(name: str, image: Image.Image, content: bytes) -> None:
    """Raise ImageError if a few bytes would take much memory, or a JPEG has too many scans."""
    pixels = image.height * image.width
    allowed = max(DENSE_PIXELS, MAX_PIXELS_PER_BYTE * len(content))
    if pixels > allowed:
        raise ImageError(
            f"{name}: too large, expected at most {allowed / 1_000_000:g} megapixels in "
            f"{len(content)} bytes, got {image.width} × {image.height} (width × height); "
            "resize it first"
        )
    scans = content.count(b"\xff\xda") if image.format == "JPEG" else 0
    most = min(MAX_SCANS, max(MIN_ALLOWED_SCANS, SCANNED_PIXELS // max(1, pixels)))
    if scans > most:
        raise ImageError(
            f"{name}: a JPEG of {scans} scans, expected at most {most} at {image.width} × "
            f"{image.height} (width × height); save it again"
        )


def _convert_image(image: Image.Image) -> Pixels:
    is_white_zero = _is_white_zero(image)
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):
        pixels = np.asarray(image).astype(np.float32)[None] / np.float32(_SIXTEEN_BIT)
        return 1 - pixels if is_white_zero else pixels
    if "transparency" in image.info or image.mode in {"LA", "La", "PA", "RGBA", "RGBa"}:
        image = _lay_over_white(image)
    elif image.mode not in _READY:
        image = image.convert("RGB")
    return _convert_array(np.asarray(image))


def _is_white_zero(image: Image.Image) -> bool:
    """Return whether 0 is white in a TIFF file, which Pillow passes over at 16 bits."""
    tags = getattr(image, "tag_v2", {})
    return tags.get(_PHOTOMETRIC) == 0


def _lay_over_white(image: Image.Image) -> Image.Image:
    """Lay an image over white; grey stays grey."""
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.mode == "La":
        image = image.convert("LA")
    layer = image.convert("RGBA")
    page = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(page, layer).convert("L" if grey else "RGB")


def _convert_array(array: NDArray[Any], channels: int = 3) -> Pixels:
    """Convert bytes `height × width (× channels)`, or floats, whose channels may come first.

    Floats have their channels last where the first axis cannot be the channels, and the last can.
    """
    if array.dtype in (np.uint8, np.bool_) and array.ndim in (2, 3):
        planes = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
        scale = 255.0 if array.dtype == np.uint8 else 1.0
        return np.ascontiguousarray(planes, np.float32) / np.float32(scale)
    if np.issubdtype(array.dtype, np.floating) and array.ndim in (2, 3):
        planes = array[None] if array.ndim == 2 else array
        counts = (1, 3, channels)
        if planes.shape[0] not in counts and planes.shape[2] in counts:
            planes = np.moveaxis(planes, 2, 0)
        return np.ascontiguousarray(planes, np.float32)
    shape = " × ".join(map(str, array.shape))
    raise ImageError(
        "image: expected bytes as height × width × channels, or floats in [0, 1] as channels × "
        f"height × width or the channels last, got {array.dtype} {shape}"
    )


def _match_channels(pixels: Pixels, channels: int, name: str) -> Pixels:
    check_size(name, *pixels.shape[1:])
    count = len(pixels)
    if count == channels:
        return pixels
    if (count, channels) == (1, 3):
        return pixels.repeat(3, axis=0)
    if (count, channels) == (3, 1):
        return np.tensordot(LUMA, pixels, 1)[None]
    raise ImageError(
        f"{name}: expected {channels} channels, got {count}; only grey and RGB can be converted"
    )
