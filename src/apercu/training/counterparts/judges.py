"""Who judges counterparts in training: the classifier in any weather, and a discriminator."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor, nn

from apercu.types import Images

STRETCH, NOISE, SHIFT = 0.5, 0.03, 2
"""Coarsest detail as a share of the side; deviation of the noise; pixels of the shift."""


def weathered(images: Images, generator: Generator) -> Images:
    """Each image a little blurred, shifted and noisy: a change that matters survives that.

    The same weather for an image and its counterparts needs a generator in the same state.
    """
    height, width = images.shape[2:]
    blur, noise = torch.rand(2, len(images), 1, 1, 1, generator=generator).to(images)
    shifts = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    small = F.interpolate(images, scale_factor=STRETCH, mode="bilinear", antialias=True)
    coarse = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
    seen = torch.lerp(images, coarse, blur)
    seen = F.pad(seen, (SHIFT,) * 4, mode="replicate")
    down, right = (SHIFT + shift for shift in shifts)
    seen = seen[:, :, down : down + height, right : right + width]
    grain = torch.randn(images.shape, generator=generator).to(images)
    return (seen + NOISE * noise * grain).clamp(0, 1)


class Discriminator(nn.Module):
    """Real images or counterparts, patch by patch (strided convolutions, LeakyReLU, no norm).

    Charachon et al. 2021 (SyCE) give widths 32, 64, 96 and no normalisation.

    Args:
        channels: of the images.
        widths: of the convolutions, each of which halves the resolution.
    """

    def __init__(self, channels: int, widths: tuple[int, ...] = (32, 64, 96)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in zip((channels, *widths[:-1]), widths, strict=True):
            layers += [nn.Conv2d(inputs, outputs, 4, 2, 1), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 3, padding=1))

    def forward(self, images: Images) -> Float[Tensor, "batch 1 rows columns"]:
        return self.layers(2 * images - 1)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, weight: float) -> Tensor:
        context.weight = weight
        return values.view_as(values)

    @staticmethod
    def backward(context: Any, *slopes: Tensor) -> tuple[Tensor, None]:
        return -context.weight * slopes[0], None


def contest(
    discriminator: nn.Module, real: Images, made: Images, weight: float
) -> Float[Tensor, " batch"]:
    """How badly the discriminator tells made images from real ones; it learns to do better.

    What made the images learns the opposite, `weight` times as strongly, through the same pass:
    slopes change their sign on the way (Ganin and Lempitsky 2015).
    """
    found = discriminator(torch.cat([real, _Reversed.apply(made, weight)]))
    on_real, on_made = found.flatten(1).chunk(2)
    return F.softplus(-on_real).mean(1) + F.softplus(on_made).mean(1)
