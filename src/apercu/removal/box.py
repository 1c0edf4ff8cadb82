"""A blur as wide as a fifth of the image, for insertion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator

from apercu.removal.base import Removal
from apercu.types import Images


@dataclass(frozen=True)
class BoxBlur(Removal):
    """Evidence turns into the mean of a box around each pixel (Gomez et al. 2022).

    The box is a fifth of the height wide, at least 9 pixels, and odd; beyond the edges it sees
    one colour.

    Args:
        outside: that colour, a value in [0, 1] per channel.
    """

    outside: tuple[float, ...]

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        side = max(images.shape[2] // 5, 9) | 1
        colour = torch.tensor(self.outside).to(images)[:, None, None]
        return F.avg_pool2d(images - colour, side, stride=1, padding=side // 2) + colour
