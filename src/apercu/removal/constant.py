"""The deterministic removals that metrics need: black, one colour, the image's own mean."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator

from apercu.removal.base import Removal
from apercu.types import Images


@dataclass(frozen=True)
class Black(Removal):
    """Evidence turns black (0 in [0, 1])."""

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return torch.zeros_like(images)


@dataclass(frozen=True)
class Flat(Removal):
    """Evidence turns into one colour.

    Args:
        colour: a value in [0, 1] per channel.
    """

    colour: tuple[float, ...]

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return torch.tensor(self.colour).to(images)[:, None, None].expand_as(images)


@dataclass(frozen=True)
class Mean(Removal):
    """Evidence turns into the image's mean colour."""

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return images.mean((2, 3), keepdim=True).expand_as(images)
