"""A small variational autoencoder, and two readers of the classifier's logits in its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias, final

import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from apercu.types import Images, Logits

Codes: TypeAlias = Float[Tensor, "batch code"]

HALVINGS = 4
"""Number of times that the encoder halves the side of its pictures."""
GROUPS = 8
"""Groups of channels that are normalised together."""
LOG_VARIANCE_BOUNDS = (-8.0, 4.0)
"""Bounds of the logarithm of a code's variance."""


@dataclass(frozen=True)
class LatentShape:
    """Size of the autoencoder and of its readers.

    Args:
        side: side of its square pictures in pixels, a multiple of 16.
        code: number of values in a code.
        width: channels of the finest features, a multiple of 8; doubled twice on the way down.
        reader: width of the two hidden layers of each reader.
    """

    side: Annotated[int, Field(ge=16, multiple_of=2**HALVINGS)] = 64
    code: Annotated[int, Field(ge=1)] = 128
    width: Annotated[int, Field(ge=GROUPS, multiple_of=GROUPS)] = 24
    reader: Annotated[int, Field(ge=1)] = 256


@final
class LatentNetwork(nn.Module):
    """Encodes images, decodes small pictures, and reads a classifier's logits from codes.

    Args:
        channels: channels of the images.
        classes: number of classes of the classifier.
        shape: size of the network.
    """

    def __init__(self, channels: int, classes: int, shape: LatentShape) -> None:
        super().__init__()
        self.shape = shape
        widths = [shape.width * scale for scale in (1, 2, 4, 4)]
        self.coarse = widths[-1], shape.side >> HALVINGS, shape.side >> HALVINGS
        values = widths[-1] * (shape.side >> HALVINGS) ** 2
        down = [
            _build_block(inputs, outputs, stride=2)
            for inputs, outputs in zip([channels, *widths], widths, strict=False)
        ]
        up = [
            nn.Sequential(nn.Upsample(scale_factor=2), _build_block(inputs, outputs))
            for inputs, outputs in zip(widths[::-1], [*widths[-2::-1], widths[0]], strict=True)
        ]
        self.down = nn.Sequential(*down, nn.Flatten(), nn.Linear(values, 2 * shape.code))
        self.start = nn.Linear(shape.code, values)
        self.up = nn.Sequential(*up, nn.Conv2d(widths[0], channels, 3, padding=1))
        self.reader = _build_reader(shape, classes)
        self.mover = _build_reader(shape, classes)

    def shrink(self, images: Images) -> Float[Tensor, "batch channels side side"]:
        """Return the images at the size of the autoencoder's pictures."""
        side = self.shape.side
        return F.interpolate(images, (side, side), mode="bilinear", antialias=True)

    def encode(self, images: Images) -> tuple[Codes, Codes]:
        """Return the mean and the logarithm of the variance of each image's code."""
        mean, spread = self.down(2 * self.shrink(images) - 1).chunk(2, dim=1)
        return mean, spread.clamp(*LOG_VARIANCE_BOUNDS)

    def decode(self, codes: Codes) -> Float[Tensor, "batch channels side side"]:
        """Return small pictures in [0, 1]."""
        return self.up(self.start(codes).unflatten(1, self.coarse)).sigmoid()

    def read(self, codes: Codes) -> Logits:
        """Return an estimate of the classifier's logits for images that have these codes."""
        return self.reader(codes)

    def logit_shift(self, codes: Codes) -> Logits:
        """Return values whose difference at two codes estimates the shift of the logits.

        The shift is that of an image which is moved from one code to the other. It is much smaller
        than between two images that have those codes, as their textures differ, too.
        """
        return self.mover(codes)

    def move(self, images: Images, start: Codes, end: Codes) -> Images:
        """Change images as pictures change between two codes; what no code holds stays as it is.

        Args:
            images: images in [0, 1].
            start: their own codes, `batch × code`.
            end: the codes that they should have, `batch × code`.

        Returns:
            The changed images in [0, 1].
        """
        change = self.decode(end) - self.decode(start)
        enlarged = F.interpolate(change, tuple(images.shape[-2:]), mode="bicubic")
        return (images + enlarged).clamp(0, 1)


def _build_reader(shape: LatentShape, classes: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(shape.code, shape.reader),
        nn.SiLU(),
        nn.Linear(shape.reader, shape.reader),
        nn.SiLU(),
        nn.Linear(shape.reader, classes),
    )


def _build_block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.GroupNorm(GROUPS, outputs), nn.SiLU()
    )
