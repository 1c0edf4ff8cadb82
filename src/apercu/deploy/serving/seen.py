"""The bytes of a caller's image → what a worker needs of it; the bytes are not kept."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from apercu import render
from apercu.classifiers import InputSpec
from apercu.classifiers.preprocessing import prepare_image
from apercu.deploy.serving.orders import Order, Wanted
from apercu.images.limits import limit_pixels
from apercu.images.reader import ReadOptions, read_stored

LARGEST_SIDE = 1024
"""Pixels of a picture that is sent back."""


@dataclass(frozen=True, eq=False)
class Seen:
    """One image, ready to be explained.

    Args:
        image: as the explainer takes it.
        size: height and width of the picture that was sent.
        wanted: what is asked about it.
        picture: a JPEG of it, where that is asked.
    """

    image: Float[Tensor, "channels height width"]
    size: tuple[int, int]
    wanted: Wanted
    picture: bytes | None


def see(order: Order, spec: InputSpec, pixels: int) -> Seen:
    """Reads an image of at most so many pixels.

    Args:
        order: with the image.
        spec: what the explainer's images look like.
        pixels: at most.

    Raises:
        ImageError: it is none, or not one that the explainer can take.
    """
    asked = ReadOptions(spec.channels, 0, spec.bands)
    with limit_pixels(pixels):
        picture = read_stored(order.image, asked).picture
    shown = None
    if order.wanted.picture:
        image = render.to_image(picture)
        image.thumbnail((LARGEST_SIDE, LARGEST_SIDE))
        shown = render.encode_image(image, "JPEG")
    height, width = picture.shape[1:]
    return Seen(prepare_image(picture, spec), (height, width), order.wanted, shown)
