"""The eight EXIF orientations: turn pictures, and boxes that were drawn on the stored picture."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Shaped
from torch import Tensor

from apercu.types import Boxes

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
        picture: The stored picture or mask, `… × height × width`.
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
        boxes: Boxes in pixels of the stored picture, `boxes × 4`.
        orientation: EXIF orientation, 1 to 8.
        size: The (height, width) of the stored picture.

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
