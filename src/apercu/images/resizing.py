"""Resize pictures in bounded memory, whatever their sides are, and make their pixels square."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from apercu.errors import ImageError
from apercu.images.limits import check_size
from apercu.types import Boxes, Picture

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
        picture: the picture, `channels × height × width`.
        size: the new (height, width).

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
    resize = partial(F.interpolate, mode="bilinear", antialias=True, align_corners=False)
    if height * columns > _LARGER * max(height * width, rows * columns):
        picture = resize(picture[None], (rows, width))[0]
    return resize(picture[None], size)[0]


def make_pixels_square(
    picture: Picture, aspect: float, name: str
) -> Float[Tensor, "channels rows columns"]:
    """Stretch a picture whose pixels are not square along the side on which they are longer.

    Args:
        picture: the picture, `channels × height × width`.
        aspect: height of a pixel divided by its width.
        name: name of the file, for error messages.

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


UPRIGHT = 1


class _Turn(NamedTuple):
    """How to turn a picture upright: transpose it, then mirror it, then flip it."""

    transpose: bool = False
    mirror: bool = False
    flip: bool = False


_TURNS = {
    1: _Turn(),
    2: _Turn(mirror=True),
    3: _Turn(mirror=True, flip=True),
    4: _Turn(flip=True),
    5: _Turn(transpose=True),
    6: _Turn(transpose=True, mirror=True),
    7: _Turn(transpose=True, mirror=True, flip=True),
    8: _Turn(transpose=True, flip=True),
}


def turn_picture(
    picture: Shaped[Tensor, "*channels height width"], orientation: int
) -> Shaped[Tensor, "*channels rows columns"]:
    """Turn a picture upright.

    Args:
        picture: the stored picture or mask, `… × height × width`.
        orientation: EXIF orientation, 1 to 8; any other number changes nothing.

    Returns:
        The upright picture.
    """
    turn = _TURNS.get(orientation, _TURNS[UPRIGHT])
    turned = picture.transpose(-2, -1) if turn.transpose else picture
    axes = [axis for axis, reverse in ((-1, turn.mirror), (-2, turn.flip)) if reverse]
    return (turned.flip(axes) if axes else turned).contiguous()


def turn_boxes(boxes: Boxes, orientation: int, size: tuple[int, int]) -> Boxes:
    """Turn boxes in the same way as `turn_picture` turns the picture.

    Args:
        boxes: boxes in pixels of the stored picture, `boxes × 4`.
        orientation: EXIF orientation, 1 to 8.
        size: the (height, width) of the stored picture.

    Returns:
        Boxes in pixels of the upright picture, `boxes × 4`.

    >>> import torch
    >>> turn_boxes(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), 6, (4, 8))
    tensor([[3., 0., 4., 2.]])
    """
    turn = _TURNS.get(orientation, _TURNS[UPRIGHT])
    height, width = size[::-1] if turn.transpose else size
    turned = boxes[:, [1, 0, 3, 2]] if turn.transpose else boxes.clone()
    if turn.mirror:
        turned[:, [0, 2]] = width - turned[:, [2, 0]]
    if turn.flip:
        turned[:, [1, 3]] = height - turned[:, [3, 1]]
    return turned
