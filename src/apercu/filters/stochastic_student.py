"""Noise that a network has learnt to choose for each image, and to take out again.

The paper on adaptive noise of a stochastic student was not at hand, so all is our choice: one
network chooses the standard deviation for each pixel, within bounds, and removes the noise; it is
trained so that the classifier keeps its predictions while the noise grows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu.filters.base import LOCATION, to_bytes
from apercu.filters.checks import check_whole
from apercu.filters.gaussian import blur
from apercu.filters.inverse_halftone import PlainResidual
from apercu.filters.purifier import Purifier, PurifierNetwork, seed_by_content
from apercu.option_strings import MAX_SEED
from apercu.types import Images, Scores

BLUR = 1.0
"""Standard deviation in pixels of the blur to which the network adds details."""
LEAST_NOISE, MOST_NOISE = 0.02, 0.3
"""Bounds of the standard deviation of the noise, in units of the range [0, 1]."""


@final
class StochasticStudentNetwork(PurifierNetwork):
    """Chooses the strength of the noise for each pixel, and removes the noise.

    Args:
        channels: number of channels of the images.
        width: number of features at half of the side; twice as many at a quarter.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__(channels)
        self.strength = nn.Sequential(
            nn.Conv2d(4 * channels, width, 3, padding=1),
            nn.ReLU(),
            PlainResidual(width),
            nn.Conv2d(width, 4, 3, padding=1),
        )
        self.stem = nn.Conv2d(4 * (channels + 1), width, 3, padding=1)
        self.before = PlainResidual(width)
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.deep = nn.Sequential(PlainResidual(2 * width), PlainResidual(2 * width))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.after = PlainResidual(width)
        self.head = nn.Conv2d(width, 4 * channels, 3, padding=1)
        for last in self.head.parameters():
            nn.init.zeros_(last)  # an untrained network adds no details

    def choose_strength(self, images: Images) -> Tensor:
        """Return the standard deviation of the noise per pixel, `batch × 1 × height × width`."""
        chosen = self.strength(F.pixel_unshuffle(images - 0.5, 2))
        fraction = F.pixel_shuffle(chosen, 2).sigmoid()
        return LEAST_NOISE + (MOST_NOISE - LEAST_NOISE) * fraction

    def remove_noise(self, noisy: Images, strength: Tensor) -> Images:
        """Return images without the noise of a known strength: blurred, with details added."""
        inputs = F.pixel_unshuffle(torch.cat([noisy - 0.5, strength], 1), 2)
        fine = self.before(F.relu(self.stem(inputs)))
        coarse = self.deep(F.relu(self.down(fine)))
        fine = self.after(fine + F.pixel_shuffle(self.up(coarse), 2))
        return blur(noisy, BLUR) + F.pixel_shuffle(self.head(fine), 2)

    def forward(self, images: Images, noise: Tensor | None = None) -> Images:
        strength = self.choose_strength(images)
        noise = torch.zeros_like(images) if noise is None else noise.to(images)
        return self.remove_noise(images + strength * noise, strength)

    def purify_for_training(
        self, images: Images, generator: torch.Generator
    ) -> tuple[Images, Scores]:
        """Return images without the noise that was added, and how weak that was, as a logarithm."""
        noise = torch.randn(images.shape, generator=generator).to(images)
        strength = self.choose_strength(images)
        purified = self.remove_noise(images + strength * noise, strength)
        return purified, -(strength / MOST_NOISE).log().mean((1, 2, 3))


@final
@dataclass(frozen=True)
class StochasticStudent(Purifier):
    """Adds noise that a network chooses for each pixel of an image, and removes it again.

    The network learnt to add as much as the classifier bears, so that little is left of an attack.
    The noise depends on the image, rounded to bytes, and on the seed alone: the same image is
    filtered the same way in any batch, and another image gets other noise. The surrogate is the
    filter itself with the same noise; attacks `eot_…` average over the noise of several copies. It
    needs the network that `apercu stress train --config stochastic_student` trains.

    Args:
        folder: folder of the network.
        seed: seed of the noise.

    Raises:
        ConfigError: no folder is named, or the seed is out of range.
    """

    folder: str = field(default="", metadata=LOCATION)
    seed: int = 0

    name: ClassVar[str] = "stochastic_student"
    network_class: ClassVar[type[PurifierNetwork]] = StochasticStudentNetwork
    sizes: ClassVar[tuple[str, ...]] = ("channels", "width")

    def __post_init__(self) -> None:
        Purifier.__post_init__(self)
        check_whole(self.name, 0, MAX_SEED, seed=self.seed)

    @property
    def graph_obstacle(self) -> str:
        return "its noise depends on a digest of the image"

    def draw_noise(self, images: Images) -> Tensor:
        pixels = to_bytes(images)
        draws = [
            torch.randn(image.shape, generator=seed_by_content(image, self.seed))
            for image in pixels
        ]
        return torch.stack(draws).to(images.device)
