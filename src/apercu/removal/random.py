"""The removals that training draws afresh at every call."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Generator, Tensor

from apercu.removal.base import Removal
from apercu.removal.blur import Blur
from apercu.types import Images


@dataclass(frozen=True)
class Colour(Removal):
    """One random colour per image, with Gaussian noise on it.

    Args:
        noise: standard deviation of the noise, in units of the [0, 1] range.
    """

    noise: float = 0.05

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        colours = torch.rand(*images.shape[:2], 1, 1, generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return (colours + self.noise * noise).clamp(0, 1).to(images)


@dataclass(frozen=True)
class Alternative(Removal):
    """The alternative image of Dabkowski & Gal: blurred, or one random colour with noise.

    Args:
        blur: what the blurred half receives.
        colour: what the other half receives.
        share: probability of the blur, per image.
    """

    blur: Blur = field(default_factory=Blur)
    colour: Colour = field(default_factory=Colour)
    share: float = 0.5

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        draw: Tensor = torch.rand(len(images), 1, 1, 1, generator=generator)
        blurred = self.blur.make_replacement(images)
        coloured = self.colour.make_replacement(images, generator)
        return torch.where(draw.to(images.device) < self.share, blurred, coloured)
