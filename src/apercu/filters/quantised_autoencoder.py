"""A variational autoencoder whose codes are rounded: little of an attack fits through them.

The autoencoder is that of Kingma and Welling (2014). The paper on purifying by quantising its
latent space was not at hand. Our choices: codes at a quarter of the side, a few levels at the same
distance for each number, and a gradient that passes as if nothing was rounded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu.filters.base import LOCATION
from apercu.filters.inverse_halftone import PlainResidual
from apercu.filters.purifier import Purifier, PurifierNetwork
from apercu.types import Images, Scores

STEP = 0.5
"""Distance of two levels of a code, in standard deviations of all codes."""
INITIAL_SCALE, INITIAL_LOG_VARIANCE = 10.0, -4.0
"""How much wider codes are before training than by default, and the logarithm of their variance."""
LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE = -8.0, 2.0
"""Bounds of the logarithm of the variance of a code."""


@final
class QuantisedAutoencoderNetwork(PurifierNetwork):
    """Encodes at a quarter of the side, rounds each number of the code to a few levels, decodes.

    Args:
        channels: number of channels of the images.
        width: number of features at half of the side; twice as many at a quarter.
        code: numbers of the code at each position, which stand for 4 × 4 pixels.
        levels: number of levels of each number of the code.
    """

    def __init__(self, channels: int, width: int, code: int, levels: int) -> None:
        super().__init__(channels)
        self.levels = levels
        self.encoder = nn.Sequential(
            nn.Conv2d(4 * channels, width, 3, padding=1),
            nn.ReLU(),
            PlainResidual(width),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1),
            nn.ReLU(),
            PlainResidual(2 * width),
            last := nn.Conv2d(2 * width, 2 * code, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(code, 2 * width, 3, padding=1),
            nn.ReLU(),
            PlainResidual(2 * width),
            nn.Conv2d(2 * width, 4 * width, 1),
            nn.PixelShuffle(2),
            PlainResidual(width),
            nn.Conv2d(width, 4 * channels, 3, padding=1),
            nn.PixelShuffle(2),
        )
        with torch.no_grad():  # codes about as wide as the levels, and nearly without noise
            last.weight[:code] *= INITIAL_SCALE
            last.weight[code:] *= 0
            last.get_parameter("bias")[code:] = INITIAL_LOG_VARIANCE

    def encode(self, images: Images) -> tuple[Tensor, Tensor]:
        """Return the mean and the logarithm of the variance of each number of the code."""
        encoded = self.encoder(F.pixel_unshuffle(images - 0.5, 2))
        means, log_variances = encoded.chunk(2, 1)
        return means, log_variances.clamp(LEAST_LOG_VARIANCE, LARGEST_LOG_VARIANCE)

    def quantise(self, codes: Tensor) -> Tensor:
        """Round codes to the levels; gradients pass as if nothing was rounded."""
        half = (self.levels - 1) / 2
        bounded = (codes / STEP).clamp(-half, half)
        levels = STEP * ((bounded - half).round() + half)
        return codes + (levels - codes).detach()

    def decode(self, codes: Tensor) -> Images:
        """Return the images of codes, which may leave [0, 1] a little."""
        return self.decoder(codes) + 0.5

    def forward(self, images: Images, noise: Tensor | None = None) -> Images:
        return self.decode(self.quantise(self.encode(images)[0]))

    def purify_for_training(
        self, images: Images, generator: torch.Generator
    ) -> tuple[Images, Scores]:
        """Return the images of drawn codes, and how far these are from standard normal ones."""
        means, log_variances = self.encode(images)
        noise = torch.randn(means.shape, generator=generator).to(means)
        codes = means + noise * (log_variances / 2).exp()
        divergence = (means.square() + log_variances.exp() - 1 - log_variances) / 2
        return self.decode(self.quantise(codes)), divergence.flatten(1).mean(1)


@final
@dataclass(frozen=True)
class QuantisedAutoencoder(Purifier):
    """Encodes an image, rounds its code to a few levels, and decodes it.

    A variational autoencoder (Kingma & Welling 2014) learnt clean images; rounding its codes takes
    away small changes. The surrogate is the same, with the gradient of the identity for the
    rounding. It needs the network that `apercu stress train --config quantised_autoencoder` trains.

    Args:
        folder: folder of the network.

    Raises:
        ConfigError: no folder is named.
    """

    folder: str = field(default="", metadata=LOCATION)

    name: ClassVar[str] = "quantised_autoencoder"
    network_class: ClassVar[type[PurifierNetwork]] = QuantisedAutoencoderNetwork
    sizes: ClassVar[tuple[str, ...]] = ("channels", "width", "code", "levels")

    @property
    def graph_obstacle(self) -> str:
        return "a graph of its network was not tried"
