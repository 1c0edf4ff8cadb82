"""Resize pictures in bounded memory, whatever their sides are, and make their pixels square."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImageError
from apercu.images.limits import check_size
from apercu.types import Picture

MAX_RESIZED_PIXELS = 16_000_000
"""Pixels of a resized picture, unless the picture itself has more."""
BELIEVED_ASPECTS = (0.05, 20.0)
"""Lowest and highest ratio of the sides of a pixel that is taken for true."""

_SQUARE = 0.01  # pixels whose sides differ by less than this fraction are square
_LARGER = 4  # a picture in between may be so many times as large as the larger of both ends


def resize_picture(
    picture: Float[Tensor, "channels height width"], size: tuple[int, int]
) -> Float[Tensor, "channels rows columns"]:
    """Resize a picture, bilinear with antialiasing.

    One axis is resized after the other. Across is first; where that would make a very tall
    picture larger, down is first, which gives the same pixels.

    Args:
        picture: The picture, `channels × height × width`.
        size: The new (height, width).

    Returns:
        The resized picture.

    Raises:
        ImageError: the resized picture would be far larger than the picture.
    """
    height, width = picture.shape[1:]
    if (height, width) == size:
        return picture
    rows, columns = size
    if rows * columns > max(MAX_RESIZED_PIXELS, _LARGER * height * width):
        raise ImageError(
            f"picture: {width} × {height} (width × height) pixels would become {columns} × {rows}; "
            "cut out the part that matters first"
        )
    if height * columns > _LARGER * max(height * width, rows * columns):
        picture = F.interpolate(
            picture[None], (rows, width), mode="bilinear", antialias=True, align_corners=False
        )[0]
    return F.interpolate(picture[None], size, mode="bilinear", antialias=True, align_corners=False)[
        0
    ]


def make_pixels_square(
    picture: Picture, aspect: float, name: str
) -> Float[Tensor, "channels rows columns"]:
    """Stretch a picture whose pixels are not square along the side on which they are longer.

    Args:
        picture: The picture, `channels × height × width`.
        aspect: Height of a pixel divided by its width.
        name: Name of the file, for error messages.

    Returns:
        The picture with square pixels.

    Raises:
        ImageError: the picture would be too large.

    >>> import torch
    >>> make_pixels_square(torch.zeros(1, 32, 64), 2.0, "scan.dcm").shape
    torch.Size([1, 64, 64])
    """
    lowest, highest = BELIEVED_ASPECTS
    if abs(aspect - 1) < _SQUARE or not lowest <= aspect <= highest:
        return picture
    height, width = picture.shape[1:]
    size = (round(height * aspect), width) if aspect > 1 else (height, round(width / aspect))
    check_size(name, *size, len(picture))
    return resize_picture(picture, size).clamp_(0, 1)
