"""The blocks of encoders and decoders: convolutions, residual blocks, doubled resolution."""

from __future__ import annotations

from collections.abc import Callable
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MIN_DEVIATION = 1e-3
"""Least deviation of a channel, relative to the mean of all: some channels never change."""


def build_conv_block(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    """Build a convolution with batch normalisation and ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Residual(nn.Module):
    """ReLU of a stack of convolutions plus its input, which is projected if the widths differ."""

    def __init__(self, inputs: int, outputs: int, stack: nn.Sequential) -> None:
        super().__init__()
        self.stack = stack
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, features: Tensor) -> Tensor:
        """Return features of the same resolution, with `outputs` channels."""
        return F.relu(self.stack(features) + self.shortcut(features))


def build_bottleneck(inputs: int, outputs: int) -> Residual:
    """Build the bottleneck of ResNet: 1 × 1 to a quarter, 3 × 3, 1 × 1 back."""
    inner = max(1, outputs // 4)
    return Residual(
        inputs,
        outputs,
        nn.Sequential(
            build_conv_block(inputs, inner, size=1),
            build_conv_block(inner, inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        ),
    )


def build_compact(inputs: int, outputs: int) -> Residual:
    """Build a residual block of two 3 × 3 convolutions."""
    return Residual(
        inputs,
        outputs,
        nn.Sequential(
            build_conv_block(inputs, outputs),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        ),
    )


def _build_transposed(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def _build_pixel_shuffle(inputs: int, outputs: int) -> nn.Module:
    return nn.Sequential(build_conv_block(inputs, 4 * outputs), nn.PixelShuffle(2))


UPSAMPLINGS: dict[str, Callable[[int, int], nn.Module]] = {
    "transposed": _build_transposed,
    "pixel_shuffle": _build_pixel_shuffle,
}


@final
class FeatureAdapter(nn.Module):
    """A residual adapter of a feature map, in standard units of each channel.

    Standardised features are projected to fewer channels, mixed over 3 × 3 positions, projected
    back and added, as in residual adapters (Rebuffi et al. 2017, Houlsby et al. 2019). In a frozen
    encoder, above all a transformer, the last features of a position can describe the whole image;
    the adapter learns to bring evidence back to its place. Before training it only standardises.

    Args:
        channels: channels of the feature map.
        width: channels between the projections.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("deviation", torch.ones(channels, 1, 1))
        self.down = nn.Conv2d(channels, width, 1)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.up = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)  # type: ignore[arg-type]

    @torch.no_grad()
    def set_units(self, features: Tensor) -> None:
        """Take the mean and the standard deviation of each channel from some features.

        Args:
            features: features of images, `images × channels × rows × columns`.
        """
        values = features.cpu().double()
        deviation = values.std((0, 2, 3), correction=0)
        least = (MIN_DEVIATION * deviation.mean()).clamp(min=torch.finfo(torch.float32).tiny)
        self.deviation.copy_(deviation.clamp(min=least).float()[:, None, None])
        self.mean.copy_(values.mean((0, 2, 3)).float()[:, None, None])

    def standardise(self, features: Tensor) -> Tensor:
        """Return features less their mean, divided by their standard deviation."""
        return (features - self.mean) / self.deviation

    def adapt(self, standardised: Tensor) -> Tensor:
        """Return adapted features of standardised ones, in the same shape."""
        hidden = F.gelu(self.down(standardised))
        return standardised + self.up(F.gelu(self.mix(hidden)))

    def forward(self, features: Tensor) -> Tensor:
        """Return adapted features, in the shape of the features."""
        return self.adapt(self.standardise(features))
