"""Decode the common picture formats with Pillow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader, BytesIO
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError, features

from apercu.errors import ImageError, InputError
from apercu.extras import require_extra
from apercu.images.formats.decoder_errors import DECODER_ERRORS, silence_warnings
from apercu.images.formats.deep_colour import decode_deep_colour, find_deep_mode
from apercu.images.formats.jpeg import (
    JPEG_MAGIC,
    check_scans,
    ends_in_grey,
    is_cut_short,
    read_codestream,
)
from apercu.images.formats.png import PNG_MAGIC, has_all_rows
from apercu.images.formats.tiff import (
    ORIENTATION,
    SAMPLE_FORMAT,
    UNSIGNED,
    TiffPage,
    check_page,
    is_tiff,
    read_pages,
)
from apercu.images.formats.tiff_decoder import decode_page
from apercu.images.limits import MAX_PIXELS, check_density, check_size
from apercu.images.names import UNPACK, is_archive
from apercu.images.resizing import UPRIGHT
from apercu.log import warn

FORMATS = ("JPEG", "PNG", "TIFF", "WEBP", "BMP", "GIF", "AVIF")
ANIMATED_FORMATS = ("GIF", "PNG", "WEBP", "AVIF")
"""Formats whose further pictures are frames; those of JPEG and HEIC are previews and depths."""

_DIRECT_MODES = {"1", "L", "RGB", "F"}
_ALPHA_MODES = {"LA", "La", "PA", "RGBA", "RGBa"}
_OPAQUE = 255
_PNG_DEPTH = 24
"""Position of the bits of a value in a PNG file."""
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class DecodedPicture(NamedTuple):
    """Pixels of a file before they are turned upright.

    Attributes:
        pixels: the pixels, `channels × height × width`; integers are scaled to [0, 1].
        orientation: EXIF orientation of the file, 1 to 8.
        pending: the orientation that is still to be applied; Pillow turns TIFF files by itself.
        aspect: height of a pixel divided by its width, before the pending orientation.
        frames: number of pictures in the file that can be read: frames or pages.
        moves: whether the file is an animation, of which this is the first frame.
    """

    pixels: NDArray[np.float32]
    orientation: int = UPRIGHT
    pending: int = UPRIGHT
    aspect: float = 1.0
    frames: int = 1
    moves: bool = False


def decode_pillow(
    stream: BytesIO | BufferedReader, name: str, page: int = 0, channels: int | None = None
) -> DecodedPicture:
    """Decode the first frame of a picture, or a page of a TIFF file.

    Transparency is composited over white, and CMYK and palettes become RGB. A TIFF file may have
    further bands, which are channels; one alone is left out where grey or colours are wanted.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.
        page: index of the page of a TIFF file.
        channels: the number of channels that is wanted; None for all of the file.

    Returns:
        The pixels, the EXIF orientation and the shape of a pixel.

    Raises:
        ImageError: the file is not a picture, damaged, cut short, too small or too large, has no
            such page.
        MissingExtraError: it is a HEIC file, and pillow-heif is not installed.
    """
    with silence_warnings("PIL"), _translate_errors(name):
        start = stream.read(16)
        stream.seek(0)
        pages = read_pages(stream, name) if is_tiff(start) else []
        tiff = _select_page(pages, page, stream, name) if pages else None
        frames = max(1, len(pages))
        if tiff is not None and tiff.needs_own_decoder(channels):
            orientation = min(8, max(1, tiff.first(ORIENTATION, UPRIGHT)))
            pixels = decode_page(tiff, stream, name, channels)
            return DecodedPicture(pixels, orientation, orientation, tiff.aspect, frames)
        with _open(stream, name, start, tiff) as image:
            if tiff is not None:
                image.seek(tiff.number)
            turned_by_pillow = _read_orientation(image) if tiff is not None else UPRIGHT
            aspect = _read_aspect(image) if tiff is None else tiff.aspect
            deep_mode = find_deep_mode(image)
            _scale_transparency(image, stream)
            _load(image, stream, name, start)
            pending = _read_orientation(image)
            if turned_by_pillow >= 5:
                aspect = 1 / aspect
            orientation = max(turned_by_pillow, pending)
            moves = tiff is None and _is_animated(image)
            if deep_mode is None:
                pixels = _read_pixels(image, name, tiff)
            else:
                page = 0 if tiff is None else tiff.number
                pixels = decode_deep_colour(image, deep_mode, stream, page)
            return DecodedPicture(pixels, orientation, pending, aspect, frames, moves)


def decode_image(image: Image.Image, name: str) -> NDArray[np.float32]:
    """Return the pixels of an opened Pillow image as those of a file, but not turned upright.

    An image that EXIF wants to be turned keeps its pixels, so that boxes fit it; a warning says so.

    Args:
        image: the image; of several frames the present one is taken.
        name: a name for error messages.

    Returns:
        The pixels, `channels × height × width`; integers are scaled to [0, 1].

    Raises:
        ImageError: the image is damaged, cut short, too small, too large, or of too many bits.
    """
    with silence_warnings("PIL"), _translate_errors(name):
        check_size(name, image.height, image.width)
        image.load()
        if _read_orientation(image) != UPRIGHT:
            warn(
                f"{name}: it lies on its side or is mirrored, as its EXIF says, and is taken as it "
                "is; PIL.ImageOps.exif_transpose turns it upright, as apercu does with files"
            )
        return _read_pixels(image, name, None)


def decode_mask(stream: BytesIO | BufferedReader, name: str) -> NDArray[np.bool_]:
    """Decode a picture as a mask: where it is opaque, or, without transparency, not black.

    Args:
        stream: the bytes of the file.
        name: name of the file, for error messages.

    Returns:
        True inside, `height × width`, upright.

    Raises:
        ImageError: as in `decode_pillow`.
    """
    with silence_warnings("PIL"), _translate_errors(name):
        start = stream.read(16)
        stream.seek(0)
        if is_tiff(start):
            _select_page(read_pages(stream, name), 0, stream, name)
        with _open(stream, name, start, None) as image:
            _load(image, stream, name, start)
            if _is_transparent(image):
                alpha = np.asarray(image.convert("RGBA"))[..., 3]
                if alpha.min() < _OPAQUE:
                    return alpha > 0
            is_plain = image.mode in _DIRECT_MODES or image.mode.startswith("I")
            values = np.asarray(image if is_plain else image.convert("RGB"))
            return values != 0 if values.ndim == 2 else (values != 0).any(axis=2)


@contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn the errors of a decoder within a `with` block into ImageErrors."""
    try:
        yield
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise ImageError(
            f"{name}: too large, expected at most {MAX_PIXELS // 1_000_000} megapixels; "
            "resize it first"
        ) from error
    except UnidentifiedImageError as error:
        raise ImageError(
            f"{name}: not an image, expected {', '.join(FORMATS)}, HEIC, DICOM, FITS, "
            "or .npy for any number of channels"
        ) from error
    except DECODER_ERRORS as error:
        reason = " ".join(str(error).split())
        if "MAX_TEXT_CHUNK" in reason or "MAX_TEXT_MEMORY" in reason:
            raise ImageError(
                f"{name}: its texts or its colour profile are too large, expected at most a "
                "mebibyte each; save it without them"
            ) from error
        raise ImageError(f"{name}: damaged or cut short ({reason})") from error


def _select_page(
    pages: list[TiffPage], page: int, stream: BytesIO | BufferedReader, name: str
) -> TiffPage:
    """Return a page of a TIFF file after it is checked; raise ImageError if there is none."""
    if not 0 <= page < len(pages):
        raise ImageError(f"{name}: there is no page {page + 1}, the file has {len(pages)}")
    check_page(pages[page], stream, name)
    return pages[page]


def _open(
    stream: BytesIO | BufferedReader, name: str, start: bytes, tiff: TiffPage | None
) -> Image.Image:
    """Open a picture by its header, and check its size."""
    formats: tuple[str, ...] = FORMATS
    if start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS:
        _require_heif(name)
        formats = ("HEIF",)
    if start[4:12] == b"ftypavif" and not features.check("avif"):
        raise ImageError(f"{name}: an AVIF file, which needs a Pillow with AVIF; update pillow")
    length = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    try:
        image = Image.open(stream, formats=formats)
    except UnidentifiedImageError as error:
        stream.seek(0)
        if is_archive(stream.read(262)):
            raise ImageError(f"{name}: {UNPACK}") from error
        if tiff is None:
            raise
        raise ImageError(
            f"{name}: a TIFF file of {tiff.samples} × {tiff.bits} bits per pixel, "
            "of a kind that is not read; convert it"
        ) from error
    if not is_tiff(start):
        check_size(name, image.height, image.width)
        check_density(name, image.height, image.width, length)
    return image


def _load(image: Image.Image, stream: BytesIO | BufferedReader, name: str, start: bytes) -> None:
    """Decode the pixels; raise ImageError if a JPEG takes too long, or if data are missing.

    Decoders fill what is missing with grey (JPEG) or black (PNG), so these are checked only where
    the last pixel is of that colour.
    """
    cut = ImageError(f"{name}: damaged or cut short, a part of its pixels is missing")
    if start.startswith(JPEG_MAGIC):
        stream.seek(0)
        data = stream.read()
        header = read_codestream(data)
        if header is not None:
            check_scans(header, name)
            if not header.is_complete:
                raise cut
        image.load()
        if ends_in_grey(_last_pixel(image)) and is_cut_short(data):
            raise cut
        return
    image.load()
    if start.startswith(PNG_MAGIC) and not np.any(_last_pixel(image)):
        stream.seek(0)
        if not has_all_rows(stream.read()):
            raise cut


def _scale_transparency(image: Image.Image, stream: BytesIO | BufferedReader) -> None:
    """Bring the transparent grey of a PNG of few bits to the scale of its pixels, 0 to 255."""
    key = image.info.get("transparency")
    if image.format != "PNG" or image.mode not in ("1", "L") or not isinstance(key, int):
        return
    position = stream.tell()
    stream.seek(_PNG_DEPTH)
    largest = 2 ** stream.read(1)[0] - 1
    stream.seek(position)
    image.info["transparency"] = min(key, largest) * 255 // largest


def _last_pixel(image: Image.Image) -> Any:
    """Return the value or values of the pixel at the lower right."""
    return image.getpixel((image.width - 1, image.height - 1))


def _require_heif(name: str) -> None:
    """Let Pillow read HEIC files; raise MissingExtraError if the extra is not installed."""
    require_extra("heic", name)
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


def _is_animated(image: Image.Image) -> bool:
    """Return whether a file has further frames; it leaves the first one, whose pixels are read."""
    try:
        return image.format in ANIMATED_FORMATS and bool(getattr(image, "is_animated", False))
    except DECODER_ERRORS:  # of the second frame, which is not needed
        return True


def _read_pixels(image: Image.Image, name: str, tiff: TiffPage | None) -> NDArray[np.float32]:
    """Convert an image to an array, `channels × height × width`; integers are scaled to [0, 1]."""
    if image.mode.startswith("I"):
        bits = min(16, tiff.bits) if tiff is not None else 16
        values = np.asarray(image)
        if values.dtype == np.int32 and _is_unsigned(image):  # Pillow takes them for signed ones
            values = values.view(np.uint32)
        pixels = _scale_integers(values, name, 2**bits - 1)
        if (key := image.info.get("transparency")) is not None:  # is shown over white
            pixels[values[None] == key] = 1
        return 1 - pixels if tiff is not None and tiff.is_white_zero else pixels
    if _is_transparent(image):
        image = _composite_over_white(image)
    elif image.mode not in _DIRECT_MODES:
        image = image.convert("RGB")
    array = np.asarray(image)
    scale = 255.0 if array.dtype == np.uint8 else 1.0
    channels_first = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    pixels = channels_first.astype(np.float32, order="C")
    pixels /= np.float32(scale)
    if image.mode == "F" and tiff is not None and tiff.is_white_zero:
        return 1 - pixels
    return pixels


def _is_unsigned(image: Image.Image) -> bool:
    """Return whether an image is of a TIFF file with unsigned integers."""
    tags = getattr(image, "tag_v2", None)
    formats = (0,) if tags is None else tags.get(SAMPLE_FORMAT, (UNSIGNED,))
    return bool(formats[0] == UNSIGNED)


def _is_transparent(image: Image.Image) -> bool:
    """Return whether an image has an alpha channel, or a colour that is transparent."""
    return "transparency" in image.info or image.mode in _ALPHA_MODES


def _scale_integers(values: NDArray[Any], name: str, full_scale: int) -> NDArray[np.float32]:
    """Scale one channel of integers to [0, 1]; raise ImageError if there are wider ones."""
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > full_scale:
        raise ImageError(
            f"{name}: expected integers of {full_scale.bit_length()} bits, 0 to {full_scale}, "
            f"got {low} to {high}; scale them"
        )
    return values.astype(np.float32)[None] / np.float32(full_scale)


def _read_aspect(image: Image.Image) -> float:
    """Return the height of a pixel divided by its width, as JFIF or pHYs says; 1 otherwise."""
    if image.format == "JPEG":
        densities = image.info.get("jfif_density")
    elif image.format == "PNG":
        densities = image.info.get("aspect", image.info.get("dpi"))
    else:
        return 1.0
    if not isinstance(densities, tuple) or len(densities) != 2 or not all(densities):
        return 1.0
    return float(densities[0]) / float(densities[1])


def _composite_over_white(image: Image.Image) -> Image.Image:
    """Composite a transparent image over white; grey stays grey."""
    grey = image.mode in {"1", "L", "LA", "La"}
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("L" if grey else "RGB")


def _read_orientation(image: Image.Image) -> int:
    """Read the EXIF orientation, 1 to 8; damaged EXIF counts as upright."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except DECODER_ERRORS:
        return UPRIGHT
    return value if isinstance(value, int) and 1 <= value <= 8 else UPRIGHT
