"""A halftone and back: a small network turns the dots into grey values again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from apercu.filters.base import Filter
from apercu.filters.checks import check_fraction
from apercu.filters.error_diffusion import FloydSteinberg
from apercu.filters.gaussian import blur
from apercu.types import Images
from apercu.weights import digest_module, load_weights

WEIGHTS = Path(__file__).parents[1] / "ready" / "inverse_halftone.safetensors"
"""Weights that `recipes/halftone/inverse.py` made, in half precision."""
BLUR = 1.5
"""Standard deviation of the blur that the network corrects, in pixels."""
STRIDE = 4
"""Images are padded to a multiple of this number of pixels."""


@final
@dataclass(frozen=True)
class InverseHalftone(Filter):
    """Makes a Floyd-Steinberg halftone of one bit, and reconstructs the image from it.

    The halftone is the defence of Huang et al. (2020). A classifier that never saw halftones does
    not recognise them; a small network that sees the dots alone brings the image back, without most
    of what an attack has added. It learnt from photographs, and knows no classifier.

    The surrogate is the reconstruction of the same halftone, with the gradient of a blur for
    the dots. Images of one channel, and of more than three, are reconstructed channel by channel.

    Args:
        detail: fraction of the network's correction that is added to the blurred halftone; at 0
            there is only the blur, and nothing learnt.

    Raises:
        ConfigError: a setting is out of range.
    """

    detail: float = 1.0

    def __post_init__(self) -> None:
        check_fraction(self.detail, "inverse_halftone: detail")

    @property
    def digest(self) -> str:
        """Identity of the network; results of another one are not reused."""
        return digest_module(open_network(torch.device("cpu")), "inverse_halftone", {})

    def apply(self, images: Images) -> Images:
        return self._reconstruct(FloydSteinberg()(images)).clamp(0, 1)

    def apply_surrogate(self, images: Images) -> Images:
        soft = FloydSteinberg().apply_surrogate(images)
        return self._reconstruct(FloydSteinberg()(images) + (soft - soft.detach()))

    def _reconstruct(self, halftones: Images) -> Images:
        """Add the network's correction to the blurred halftone."""
        smooth = blur(halftones, BLUR)
        if self.detail == 0:
            return smooth
        count, channels = halftones.shape[:2]
        colours = halftones.float()
        if channels != 3:
            colours = colours.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
        correction = open_network(halftones.device)(colours)
        if channels != 3:
            correction = correction.mean(1).unflatten(0, (count, channels))
        return smooth + self.detail * correction.to(smooth)


class InverseHalftoneNetwork(nn.Module):
    """What the blur of a halftone of three channels lacks, at a half and a quarter of its side.

    Args:
        width: number of features at half of the side.
        deep: number of features at a quarter of the side.
    """

    def __init__(self, width: int = 32, deep: int = 64) -> None:
        super().__init__()
        self.stem = nn.Conv2d(12, width, 3, padding=1)
        self.before = PlainResidual(width)
        self.down = nn.Conv2d(width, deep, 3, stride=2, padding=1)
        self.deep = nn.Sequential(PlainResidual(deep), PlainResidual(deep))
        self.up = nn.Conv2d(deep, 4 * width, 1)
        self.after = PlainResidual(width)
        self.head = nn.Conv2d(width, 12, 3, padding=1)
        for last in self.head.parameters():
            nn.init.zeros_(last)  # an untrained network corrects nothing

    def forward(self, halftones: Tensor) -> Tensor:
        """Return the correction of halftones of any size, `batch × 3 × height × width`."""
        height, width = halftones.shape[2:]
        padded = F.pad(halftones, (0, -width % STRIDE, 0, -height % STRIDE), mode="replicate")
        fine = self.before(F.relu(self.stem(F.pixel_unshuffle(padded - 0.5, 2))))
        coarse = self.deep(F.relu(self.down(fine)))
        fine = self.after(fine + F.pixel_shuffle(self.up(coarse), 2))
        return F.pixel_shuffle(self.head(fine), 2)[:, :, :height, :width]


class PlainResidual(nn.Module):
    """Two convolutions, added to their input; without batch norms, which depend on other images."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        with torch.no_grad():
            self.second.weight.mul_(0.3)
            self.second.get_parameter("bias").zero_()

    def forward(self, features: Tensor) -> Tensor:
        return features + self.second(F.relu(self.first(features)))


@lru_cache
def open_network(device: torch.device) -> InverseHalftoneNetwork:
    """Open the network with the weights of the package, on a device, in evaluation mode."""
    network = InverseHalftoneNetwork()
    load_weights(network, WEIGHTS)
    return network.requires_grad_(False).eval().to(device)
