"""JPEG with a gradient: its colours, blocks and tables, but a soft rounding (Shin & Song 2017)."""

from __future__ import annotations

from math import pi

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.robustness.filters.pixel_ops import round_softly
from apercu.types import Images

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
"""Steps of the coefficients at quality 50 (ITU-T T.81, annex K)."""
YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
"""Luma and two colour differences of RGB (JFIF 1.02)."""


def compress_softly(images: Images, quality: int) -> Images:
    """As `Jpeg` treats channels: three are RGB with halved colours, any others are grey."""
    levels = 255 * images - 128
    if images.shape[1] != 3:
        return (_quantise_blocks(levels, _scale_table(LUMA_TABLE, quality)) + 128) / 255
    height, width = images.shape[2:]
    matrix = torch.tensor(YCC).to(images)
    both = torch.einsum("ij,bjhw->bihw", matrix, levels)
    luma, colours = both[:, :1], both[:, 1:]
    luma = _quantise_blocks(luma, _scale_table(LUMA_TABLE, quality))
    halves = F.avg_pool2d(_pad_to_multiple(colours, 2), 2)
    halves = _quantise_blocks(halves, _scale_table(CHROMA_TABLE, quality))
    colours = F.interpolate(halves, scale_factor=2, mode="bilinear")[..., :height, :width]
    rgb = torch.einsum("ij,bjhw->bihw", matrix.inverse(), torch.cat([luma, colours], dim=1))
    return (rgb + 128) / 255


def _quantise_blocks(planes: Images, table: Float[Tensor, "8 8"]) -> Images:
    """Blocks of 8 × 8 to cosines, rounded softly to the steps of the table, and back."""
    batch, channels, height, width = planes.shape
    filled = _pad_to_multiple(planes, 8)
    rows, columns = filled.shape[2] // 8, filled.shape[3] // 8
    blocks = filled.view(batch, channels, rows, 8, columns, 8).transpose(3, 4)
    cosines, steps = _cosine_transform().to(planes), table.to(planes)
    kept = round_softly(cosines @ blocks @ cosines.T / steps) * steps
    whole = (cosines.T @ kept @ cosines).transpose(3, 4).reshape(filled.shape)
    return whole[..., :height, :width]


def _scale_table(base: tuple[tuple[int, ...], ...], quality: int) -> Float[Tensor, "8 8"]:
    """The steps at a quality, as the Independent JPEG Group scales them."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return ((torch.tensor(base) * percent + 50) // 100).clamp(1, 255).float()


def _cosine_transform() -> Float[Tensor, "8 8"]:
    """The orthonormal cosine transform of eight samples."""
    waves = torch.arange(8.0)
    matrix = torch.cos((2 * waves[None] + 1) * waves[:, None] * pi / 16) / 2
    matrix[0] /= 2**0.5
    return matrix


def _pad_to_multiple(planes: Images, multiple: int) -> Float[Tensor, "batch channels tall wide"]:
    """With the last row and column repeated until the sides are multiples."""
    down, across = (-length % multiple for length in planes.shape[2:])
    return F.pad(planes, (0, across, 0, down), mode="replicate")
