"""`PreparedImage`: the picture of a request, decoded and at the size of the explainer."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from apercu import render
from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import prepare_image
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.errors import ConfigError
from apercu.images.formats.fits import check_bands
from apercu.images.formats.fits_hdus import is_fits
from apercu.images.limits import limit_pixels
from apercu.images.reader import ReadOptions, read_stored

MAX_SIDE = 1024
"""Pixels of a picture that is sent back."""


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
            request: the request with the image.
            spec: what the explainer's images look like.
            max_pixels: pixels that a picture may have.

        Returns:
            The decoded image.

        Raises:
            ImageError: the bytes are no image, or none that the explainer can take.
            ConfigError: bands are named that cannot be the channels, or of a file without bands.
        """
        options = request.options
        check_bands(options.bands, spec.channels)
        if options.bands and not is_fits(request.image):
            raise ConfigError("bands: only FITS files have bands that can be chosen; leave it out")
        bands = options.bands or spec.bands
        with limit_pixels(max_pixels):
            stored = read_stored(request.image, ReadOptions(spec.channels, options.frame, bands))
        picture = stored.picture
        jpeg = None
        if options.picture:
            image = render.to_image(picture)
            image.thumbnail((MAX_SIDE, MAX_SIDE))
            jpeg = render.encode_image(image, "JPEG")
        height, width = picture.shape[1:]
        image = prepare_image(picture, spec)
        return cls(image, (height, width), options, jpeg, stored.frames)
