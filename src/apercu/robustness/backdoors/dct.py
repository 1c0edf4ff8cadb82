"""A trigger that can hardly be seen: a wave in the cosine transform of one colour channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImageError
from apercu.filters.checks import check_between, check_whole
from apercu.robustness.backdoors.base import Trigger, check_targets
from apercu.types import Images, Targets

BLOCK = 8
"""Rows and columns of a block."""
CHANNELS = 3
MOST_TARGETS = 12


@final
@dataclass(frozen=True)
class Dct(Trigger):
    """Writes one coefficient of the cosine transform into every block of a colour channel.

    After the backdoor of arXiv 2201.13164, which hides triggers by steganography in the cosine
    transform of the colour channels. The claim: several triggers work in one network, each with
    its own target (N-to-N) or all with the same (N-to-one), clean accuracy stays, and Neural
    Cleanse does not find them. The paper's positions and strength were not known to us. Our
    choices: blocks of 8 × 8 pixels as in JPEG; the variants go through the channels red, green
    and blue, and after three variants to the next position along the diagonal of the block; the
    coefficient is replaced, which also removes what the image had there.

    Args:
        targets: class index of each variant; equal ones for N-to-one.
        strength: value of the coefficient of the orthonormal transform; pixels change by up to a
            quarter of it.
        row: first vertical frequency, 1 to 7 half waves in a block.
        column: horizontal frequency, 1 to 7 half waves in a block.
    """

    targets: tuple[int, ...] = (0, 3, 7)
    strength: float = 0.25
    row: int = 4
    column: int = 4

    def __post_init__(self) -> None:
        check_targets("dct", self.targets, MOST_TARGETS)
        check_between("dct", 0.01, 4.0, strength=self.strength)
        check_whole("dct", 1, BLOCK - 1, row=self.row, column=self.column)

    def stamp(self, images: Images, variants: Targets) -> Images:
        if images.shape[1] < min(CHANNELS, len(self.targets)):
            raise ImageError(
                f"dct: expected images with {min(CHANNELS, len(self.targets))} channels, one for "
                f"each trigger, got {images.shape[1]}; name fewer targets"
            )
        marked = images.clone()
        for number in range(len(self.targets)):
            mine = variants.to(images.device) == number
            channel, row = number % CHANNELS, self.find_row(number)
            marked[mine, channel] = self._write(images[mine, channel], row)
        return marked.clamp(0, 1)

    def find_row(self, variant: int) -> int:
        """Return the vertical frequency of a variant, 1 to 7."""
        return (self.row - 1 + variant // CHANNELS) % (BLOCK - 1) + 1

    def _write(
        self, plane: Float[Tensor, "batch height width"], row: int
    ) -> Float[Tensor, "batch height width"]:
        """Replace one coefficient of each whole block; pixels beyond the last block stay."""
        wave = torch.outer(cosine_wave(row), cosine_wave(self.column)).to(plane)
        height, width = (BLOCK * (side // BLOCK) for side in plane.shape[1:])
        shape = (len(plane), height // BLOCK, BLOCK, width // BLOCK, BLOCK)
        blocks = plane[:, :height, :width].reshape(shape)
        present = torch.einsum("nrycx,yx->nrc", blocks, wave)
        change = torch.einsum("nrc,yx->nrycx", self.strength - present, wave)
        marked = plane.clone()
        marked[:, :height, :width] += change.reshape(len(plane), height, width)
        return marked


def cosine_wave(frequency: int) -> Float[Tensor, " block"]:
    """Return one row of the orthonormal cosine transform of a block.

    Args:
        frequency: number of half waves in a block, above 0.

    Returns:
        Its values at the 8 pixels; the sum of their squares is 1.
    """
    pixels = torch.arange(BLOCK, dtype=torch.float32)
    return (math.pi * (2 * pixels + 1) * frequency / (2 * BLOCK)).cos() * math.sqrt(2 / BLOCK)
