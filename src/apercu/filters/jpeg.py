"""JPEG compression, and a differentiable surrogate of it (Shin & Song 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from math import pi
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu.filters.base import Filter, from_bytes, round_softly, to_bytes
from apercu.filters.checks import check_whole
from apercu.types import Images


@final
@dataclass(frozen=True)
class Jpeg(Filter):
    """Compresses images as JPEG with Pillow, and decompresses them.

    Three channels are RGB; any other channels are compressed one by one. The surrogate is the same
    transform with a soft rounding of its coefficients.

    Args:
        quality: quality of the compression, 1 to 95.

    Raises:
        ConfigError: a setting is out of range.
    """

    quality: int = 75

    def __post_init__(self) -> None:
        check_whole("jpeg", 1, 95, quality=self.quality)

    @property
    def graph_obstacle(self) -> str:
        return "Pillow compresses the images"

    def apply(self, images: Images) -> Images:
        pixels = to_bytes(images).cpu()
        return from_bytes(torch.stack([self._compress_image(image) for image in pixels]), images)

    def apply_surrogate(self, images: Images) -> Images:
        return compress_softly(images, self.quality)

    def _compress_image(self, pixels: Tensor) -> Tensor:
        """Compress one image of bytes, channels first."""
        if len(pixels) == 3:
            compressed = self._compress_picture(Image.fromarray(pixels.permute(1, 2, 0).numpy()))
            return compressed.permute(2, 0, 1)
        return torch.stack(
            [self._compress_picture(Image.fromarray(plane.numpy())) for plane in pixels]
        )

    def _compress_picture(self, picture: Image.Image) -> Tensor:
        file = BytesIO()
        picture.save(file, "JPEG", quality=self.quality)
        with Image.open(file) as opened:
            return torch.from_numpy(np.array(opened))


LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA_TABLE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
"""Quantisation steps of the coefficients at quality 50 (ITU-T T.81, annex K)."""
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Luma and two colour differences of RGB (JFIF 1.02)."""


def compress_softly(images: Images, quality: int) -> Images:
    """Compress images as `Jpeg` does, but with gradients.

    Three channels are RGB, and their colours have half the resolution; any others are grey.
    """
    levels = 255 * images - 128
    if images.shape[1] != 3:
        return (_quantise_blocks(levels, _scale_table(LUMA_TABLE, quality)) + 128) / 255
    height, width = images.shape[2:]
    matrix = torch.tensor(YCC).to(images)
    luma_and_colours = torch.einsum("ij,bjhw->bihw", matrix, levels)
    luma, colours = luma_and_colours[:, :1], luma_and_colours[:, 1:]
    luma = _quantise_blocks(luma, _scale_table(LUMA_TABLE, quality))
    halves = F.avg_pool2d(_pad_to_multiple(colours, 2), 2)
    halves = _quantise_blocks(halves, _scale_table(CHROMA_TABLE, quality))
    colours = F.interpolate(halves, scale_factor=2, mode="bilinear")[..., :height, :width]
    rgb = torch.einsum("ij,bjhw->bihw", matrix.inverse(), torch.cat([luma, colours], dim=1))
    return (rgb + 128) / 255


def _quantise_blocks(planes: Images, table: Float[Tensor, "8 8"]) -> Images:
    """Round the cosine coefficients of blocks of 8 × 8 softly to the steps of the table."""
    batch, channels, height, width = planes.shape
    padded = _pad_to_multiple(planes, 8)
    rows, columns = padded.shape[2] // 8, padded.shape[3] // 8
    blocks = padded.view(batch, channels, rows, 8, columns, 8).transpose(3, 4)
    cosines, steps = _make_cosine_transform().to(planes), table.to(planes)
    rounded = round_softly(cosines @ blocks @ cosines.T / steps) * steps
    whole = (cosines.T @ rounded @ cosines).transpose(3, 4).reshape(padded.shape)
    return whole[..., :height, :width]


def _scale_table(base: tuple[tuple[int, ...], ...], quality: int) -> Float[Tensor, "8 8"]:
    """Scale a table to a quality, as the Independent JPEG Group does it."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255).float()


def _make_cosine_transform() -> Float[Tensor, "8 8"]:
    """Return the matrix of the orthonormal cosine transform of eight samples."""
    waves = torch.arange(8.0)
    matrix = torch.cos((2 * waves[None] + 1) * waves[:, None] * pi / 16) / 2
    matrix[0] /= 2**0.5
    return matrix


def _pad_to_multiple(planes: Images, multiple: int) -> Float[Tensor, "batch channels tall wide"]:
    """Repeat the last row and column until the sides are multiples of a number."""
    down, across = (-length % multiple for length in planes.shape[2:])
    return F.pad(planes, (0, across, 0, down), mode="replicate")
