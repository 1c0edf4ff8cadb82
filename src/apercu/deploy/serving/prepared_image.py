"""`PreparedImage`: the picture of a request, decoded and at the size of the explainer."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from apercu import render
from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import prepare_image
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.deploy.serving.responses import ExplainResponse, describe_error
from apercu.errors import ConfigError, ImageError
from apercu.images.formats.fits import check_bands
from apercu.images.formats.fits_hdus import is_fits
from apercu.images.formats.jpeg import FRAME_MARKERS, JPEG_MAGIC, START_OF_SCAN
from apercu.images.formats.npy import NPY_MAGIC
from apercu.images.formats.png import PNG_MAGIC
from apercu.images.limits import limit_pixels
from apercu.images.reader import ReadOptions, read_stored

MAX_SIDE = 1024
"""Pixels of a picture that is sent back."""
_HEAD = struct.Struct("!IIII")
"""Height and width of the picture, number of frames, bytes of the JPEG."""
_SCAN, _COUNTED_BYTES = b"\xff\xda", 1 << 20


@dataclass(frozen=True, eq=False)
class PreparedImage:
    """An image of a request, decoded.

    Args:
        image: the image as the explainer takes it, `channels × height × width`, in [0, 1].
        size: height and width of the picture that was sent.
        options: how it is to be explained.
        picture: a JPEG of it, if that is to be sent back.
        frames: number of frames or pages of the file.
    """

    image: Float[Tensor, "channels height width"]
    size: tuple[int, int]
    options: RequestOptions
    picture: bytes | None = None
    frames: int = 1

    @classmethod
    def from_request(
        cls, request: ExplainRequest, spec: InputSpec, max_pixels: int
    ) -> PreparedImage:
        """Decode the image of a request; its bytes are not kept.

        Args:
            request: the request with the image, or with what `pack` made of it.
            spec: what the explainer's images look like.
            max_pixels: pixels that a picture may have.

        Returns:
            The decoded image.

        Raises:
            ImageError: the bytes are no image, or none that the explainer can take.
            ConfigError: bands are named that cannot be the channels, or of a file without bands.
        """
        options = request.options
        if options.is_prepared:
            return cls.unpack(request.image, spec, options)
        check_bands(options.bands, spec.channels)
        if options.bands and not is_fits(request.image):
            raise ConfigError("bands: only FITS files have bands that can be chosen; leave it out")
        bands = options.bands or spec.bands
        with limit_pixels(max_pixels):
            stored = read_stored(request.image, ReadOptions(spec.channels, options.frame, bands))
        picture = stored.picture
        jpeg = None
        if options.picture:
            preview = render.to_image(picture)
            preview.thumbnail((MAX_SIDE, MAX_SIDE))
            jpeg = render.encode_image(preview, "JPEG")
        height, width = picture.shape[1:]
        image = prepare_image(picture, spec)
        return cls(image, (height, width), options, jpeg, stored.frames)

    def pack(self) -> bytes:
        """Return the image as bytes, without its options."""
        jpeg = self.picture or b""
        head = _HEAD.pack(*self.size, self.frames, len(jpeg))
        return b"".join((head, jpeg, self.image.contiguous().numpy().tobytes()))

    @classmethod
    def unpack(cls, content: bytes, spec: InputSpec, options: RequestOptions) -> PreparedImage:
        """Return the image that `pack` made bytes of.

        Args:
            content: the bytes.
            spec: what the explainer's images look like.
            options: how the image is to be explained.

        Returns:
            The image with its options.

        Raises:
            ImageError: the bytes are not as long as the image.
        """
        shape = (spec.channels, *spec.size)
        if len(content) < _HEAD.size:
            raise ImageError("image: cut short after it was decoded")
        height, width, frames, length = _HEAD.unpack_from(content)
        start = _HEAD.size + length
        if len(content) != start + 4 * math.prod(shape):
            raise ImageError("image: cut short after it was decoded")
        pixels = torch.frombuffer(bytearray(memoryview(content)[start:]), dtype=torch.float32)
        jpeg = content[_HEAD.size : start] or None
        return cls(pixels.view(shape), (height, width), options, jpeg, frames)


def prepare_request(
    request: ExplainRequest, spec: InputSpec, max_pixels: int
) -> PreparedImage | ExplainResponse:
    """Decode the image of a request, or describe the problem: one must not spoil a batch.

    Args:
        request: the request with the image, or with what `PreparedImage.pack` made of it.
        spec: what the explainer's images look like.
        max_pixels: pixels that a picture may have.

    Returns:
        The decoded image, or the response that says what is wrong.
    """
    try:
        return PreparedImage.from_request(request, spec, max_pixels)
    except Exception as error:
        if _lacks_memory(error):
            error = ImageError("image: takes too much memory to decode; send a smaller one")
        return describe_error(error)


def _lacks_memory(error: Exception) -> bool:
    """Return whether memory was missing; PyTorch raises no MemoryError for it."""
    is_pytorch = isinstance(error, RuntimeError) and "allocate memory" in str(error)
    return is_pytorch or isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError)


def read_pixel_count(content: bytes) -> int | None:
    """Read from the first bytes over how many pixels a decoder goes, at most.

    Args:
        content: bytes of the file.

    Returns:
        The pixels of a JPEG for each of its scans, or of a PNG, GIF, BMP or WebP file; None for
        files whose header does not tell the work, and for large ones of several scans.
    """
    if content.startswith(JPEG_MAGIC):
        return _read_jpeg_pixels(content)
    if content.startswith(PNG_MAGIC):
        width, height = struct.unpack_from(">II", content.ljust(24, b"\0"), 16)
    elif content.startswith(b"GIF8"):
        width, height = struct.unpack_from("<HH", content.ljust(10, b"\0"), 6)
    elif content.startswith(b"BM"):
        width, height = map(abs, struct.unpack_from("<ii", content.ljust(26, b"\0"), 18))
    elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        width, height = _read_webp_size(content.ljust(30, b"\0"))
    else:
        return len(content) if content.startswith(NPY_MAGIC) else None
    return width * height


def _read_jpeg_pixels(content: bytes) -> int | None:
    """Follow the segments to the first scan; count scans only where there may be several."""
    position, pixels, components, is_sequential = 2, 0, 0, False
    while (segment := content[position : position + 12])[:1] == b"\xff" and len(segment) == 12:
        marker = segment[1]
        if marker in FRAME_MARKERS:
            height, width, components = struct.unpack_from(">HHB", segment, 5)
            pixels, is_sequential = height * width, marker in (0xC0, 0xC1)
        elif marker == START_OF_SCAN:
            if is_sequential and segment[4] == components:
                return pixels
            return pixels * content.count(_SCAN) if len(content) <= _COUNTED_BYTES else None
        position += 2 + int.from_bytes(segment[2:4], "big")
    return None


def _read_webp_size(start: bytes) -> tuple[int, int]:
    """Return the width and height in the first chunk of a WebP file."""
    if start[12:16] == b"VP8X":
        width, height = (int.from_bytes(start[at : at + 3], "little") + 1 for at in (24, 27))
    elif start[12:16] == b"VP8L":
        bits = int.from_bytes(start[21:25], "little")
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    else:
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", start, 26))
    return width, height
