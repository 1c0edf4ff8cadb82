"""The eight EXIF orientations, for pictures and for boxes drawn on the unturned ones."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor

from apercu.types import Boxes

UPRIGHT = 1

# orientation: exchange rows and columns; then mirror left-right; then flip top-bottom
_TURNS: dict[int, tuple[bool, bool, bool]] = {
    1: (False, False, False),
    2: (False, True, False),
    3: (False, True, True),
    4: (False, False, True),
    5: (True, False, False),
    6: (True, True, False),
    7: (True, True, True),
    8: (True, False, True),
}


def turn_picture(
    picture: Shaped[Tensor, "*channels height width"], orientation: int
) -> Shaped[Tensor, "*channels rows columns"]:
    """The picture as EXIF wants it shown; an unknown orientation leaves it as it is."""
    exchanged, mirrored, flipped = _TURNS.get(orientation, _TURNS[UPRIGHT])
    turned = picture.transpose(-2, -1) if exchanged else picture
    axes = [axis for axis, wanted in ((-1, mirrored), (-2, flipped)) if wanted]
    return (turned.flip(axes) if axes else turned).contiguous()


def turn_boxes(boxes: Boxes, orientation: int, size: tuple[int, int]) -> Boxes:
    """Boxes of the unturned picture, moved to where `turn` puts what they frame.

    `size` is (height, width) of the picture before it is turned.

    >>> import torch
    >>> turn_boxes(torch.tensor([[0.0, 0.0, 2.0, 1.0]]), 6, (4, 8))
    tensor([[3., 0., 4., 2.]])
    """
    exchanged, mirrored, flipped = _TURNS.get(orientation, _TURNS[UPRIGHT])
    height, width = size[::-1] if exchanged else size
    turned = boxes[:, [1, 0, 3, 2]] if exchanged else boxes.clone()
    if mirrored:
        turned[:, [0, 2]] = width - turned[:, [2, 0]]
    if flipped:
        turned[:, [1, 3]] = height - turned[:, [3, 1]]
    return turned
