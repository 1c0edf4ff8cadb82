"""Ordered dithering: each pixel is compared with a threshold of a repeated matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import final, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.errors import ConfigError
from apercu.filters.base import (
    ADDED_LATER,
    Channels,
    Filter,
    convert_to_grey,
    round_softly,
)
from apercu.filters.checks import check_choice, check_whole
from apercu.types import Images

SIZES = (2, 4, 8, 16)

Ranks = Int[Tensor, "size size"]
"""Every number from 0 to size² − 1 once; the pixel of rank 0 turns bright first."""


@final
@dataclass(frozen=True)
class Bayer(Filter):
    """Dithers with the matrix of Bayer (1973).

    Args:
        bits: bits of each channel, 1 to 4.
        size: side of the matrix, 2, 4, 8 or 16.
        channels: whether each channel is dithered, or the grey image.

    Raises:
        ConfigError: a setting is out of range.
    """

    bits: int = 1
    size: int = 8
    channels: Channels = field(default="each", metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_whole("bayer", 1, 4, bits=self.bits)
        check_choice("bayer", "channels", self.channels, get_args(Channels))
        if self.size not in SIZES:
            raise ConfigError(f"bayer: size: expected 2, 4, 8 or 16, got {self.size}")

    def apply(self, images: Images) -> Images:
        planes = select_planes(images, self.channels)
        return (
            dither(planes, compute_bayer_ranks(self.size), self.bits).expand_as(images).contiguous()
        )

    def apply_surrogate(self, images: Images) -> Images:
        planes = select_planes(images, self.channels)
        return dither_softly(planes, compute_bayer_ranks(self.size), self.bits).expand_as(images)


@lru_cache
def compute_bayer_ranks(size: int) -> Ranks:
    """Compute the ranks of a Bayer matrix; its side is a power of two.

    >>> compute_bayer_ranks(2).tolist()
    [[0, 2], [3, 1]]
    """
    if size == 1:
        return torch.zeros(1, 1, dtype=torch.long)
    smaller = compute_bayer_ranks(size // 2)
    quarters = torch.tensor([[0, 2], [3, 1]])
    fine = torch.kron(torch.ones_like(quarters), 4 * smaller)
    return fine + torch.kron(quarters, torch.ones_like(smaller))


def select_planes(images: Images, channels: Channels) -> Float[Tensor, "batch planes height width"]:
    """Return the planes that are dithered: every channel, or one grey plane."""
    return convert_to_grey(images) if channels == "grey" else images


def dither(images: Images, ranks: Ranks, bits: int) -> Images:
    """Round each pixel to one of its two levels, so that the mean over the matrix is kept."""
    steps = 2**bits - 1
    return (images * steps + 1 - _tile_thresholds(images, ranks)).floor() / steps


def dither_softly(images: Images, ranks: Ranks, bits: int) -> Images:
    """Dither with soft steps at the same thresholds, which have gradients."""
    steps = 2**bits - 1
    return round_softly(images * steps + 0.5 - _tile_thresholds(images, ranks)) / steps


def _tile_thresholds(images: Images, ranks: Ranks) -> Float[Tensor, "height width"]:
    """Return thresholds in (0, 1), repeated over the image from its upper left corner."""
    rows, columns = (torch.arange(length) % len(ranks) for length in images.shape[2:])
    return ((ranks[rows][:, columns] + 0.5) / ranks.numel()).to(images)
