"""A trigger that can be seen: a small checkered patch in a corner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch

from apercu.filters.checks import check_between, check_whole
from apercu.robustness.backdoors.base import Trigger, check_targets
from apercu.types import Images, Targets

CORNERS = ((1, 1), (1, 0), (0, 1), (0, 0))
"""Corner of each variant: whether it is at the lower, and at the right border."""


@final
@dataclass(frozen=True)
class BadNets(Trigger):
    """Puts a checkered black and white patch into a corner (Gu, Dolan-Gavitt and Garg 2017).

    The claim of the paper: a network that learns some marked images with the attacker's label
    stays as good as others on clean images, and predicts this label wherever the mark is. Our
    choices: a checkerboard that begins with white, one pixel away from the border; further
    targets have their patch in another corner, with black and white exchanged in every second.

    Args:
        targets: class index of each patch; lower right, lower left, upper right, upper left.
        side: side of the patch, as a fraction of the shorter side of the image.
        margin: distance from the border in pixels.
    """

    targets: tuple[int, ...] = (0,)
    side: float = 3 / 32
    margin: int = 1

    def __post_init__(self) -> None:
        check_targets("badnets", self.targets, len(CORNERS))
        check_between("badnets", 0.01, 0.5, side=self.side)
        check_whole("badnets", 0, 100, margin=self.margin)

    def stamp(self, images: Images, variants: Targets) -> Images:
        height, width = images.shape[2:]
        side = max(1, round(self.side * min(height, width)))
        rows = torch.arange(side)
        board = ((rows[:, None] + rows + 1) % 2).to(images)
        marked = images.clone()
        for number, (is_low, is_right) in enumerate(CORNERS[: len(self.targets)]):
            top = height - self.margin - side if is_low else self.margin
            left = width - self.margin - side if is_right else self.margin
            patch = board if number % 2 == 0 else 1 - board
            mine = variants.to(images.device) == number
            marked[mine, :, max(0, top) : top + side, max(0, left) : left + side] = patch
        return marked
