"""How evidence is removed from images, in training, perturbation methods and metrics."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from apercu.types import Images, Maps


class Removal(ABC):
    """Removes evidence by showing another image where the mask is 0."""

    @abstractmethod
    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        """Return the image that is shown where evidence is removed.

        Args:
            images: images whose evidence is removed, `batch × channels × height × width`.
            generator: source of the randomness, on the CPU. Random removals differ at each
                call; deterministic removals ignore it.

        Returns:
            Replacements, in the shape of the images.
        """

    def __call__(self, images: Images, masks: Maps, generator: Generator | None = None) -> Images:
        """Return `images · masks + replacement · (1 − masks)`; only the masks receive gradients.

        The images and their replacements are detached, as in Dabkowski & Gal's code.
        """
        keep = masks.unsqueeze(1)
        replacement = self.make_replacement(images, generator).detach()
        return images.detach() * keep + replacement * (1 - keep)


@dataclass(frozen=True)
class Black(Removal):
    """Evidence becomes black, 0 in [0, 1]."""

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return torch.zeros_like(images)


@dataclass(frozen=True)
class Flat(Removal):
    """Evidence becomes one fixed colour.

    Args:
        colour: a value in [0, 1] per channel.
    """

    colour: tuple[float, ...]

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return torch.tensor(self.colour).to(images)[:, None, None].expand_as(images)


@dataclass(frozen=True)
class Mean(Removal):
    """Evidence becomes the mean colour of its image."""

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        return images.mean((2, 3), keepdim=True).expand_as(images)


@dataclass(frozen=True)
class Blur(Removal):
    """Evidence is blurred by a Gaussian (Dabkowski & Gal use σ = 10 on 224 pixels).

    Args:
        strength: standard deviation of the Gaussian, as a fraction of the shorter side.
    """

    strength: float = 10 / 224

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        height, width = images.shape[-2:]
        rows, columns = (
            _build_blur_matrix(length, self.strength * min(height, width)).to(images)
            for length in (height, width)
        )
        return rows @ images @ columns.T


@dataclass(frozen=True)
class BoxBlur(Removal):
    """Evidence becomes the mean of a box around each pixel (Gomez et al. 2022), for insertion.

    The box is a fifth of the height wide, at least 9 pixels, and odd. Beyond the edges of the
    image there is one colour.

    Args:
        outside: the colour beyond the edges, a value in [0, 1] per channel.
    """

    outside: tuple[float, ...]

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        side = max(images.shape[2] // 5, 9) | 1
        colour = torch.tensor(self.outside).to(images)[:, None, None]
        return F.avg_pool2d(images - colour, side, stride=1, padding=side // 2) + colour


@dataclass(frozen=True)
class Colour(Removal):
    """Evidence becomes one random colour per image, with Gaussian noise on it.

    Args:
        noise: standard deviation of the noise, in units of the range [0, 1].
    """

    noise: float = 0.05

    def make_replacement(self, images: Images, generator: Generator | None = None) -> Images:
        colours = torch.rand(*images.shape[:2], 1, 1, generator=generator)
        noise = torch.randn(images.shape, generator=generator)
        return (colours + self.noise * noise).clamp(0, 1).to(images)


@dataclass(frozen=True)
class Alternative(Removal):
    """The alternative image of Dabkowski & Gal: the image blurred, or one random colour with noise.

    Args:
        blur: the removal of the images that are blurred.
        colour: the removal of the other images.
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


def _build_blur_matrix(length: int, sigma: float) -> Tensor:
    """Return the blur of one axis as a matrix: a Gaussian cut at 3 σ, edges reflected.

    A separable blur is then two matrix products, fast on every device and exact for any σ.
    """
    reach = max(1, math.ceil(3 * sigma))
    offsets = torch.arange(-reach, reach + 1)
    kernel = torch.exp(-0.5 * (offsets / max(sigma, 1e-6)) ** 2)
    sources = (torch.arange(length)[:, None] + offsets) % (2 * length)
    sources = torch.minimum(sources, 2 * length - 1 - sources)
    weights = torch.zeros(length, length)
    return weights.scatter_add_(1, sources, (kernel / kernel.sum()).expand(length, -1))
