"""Dithering with blue noise: thresholds without structure that an eye or a network could see."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import final, get_args

import numpy as np
import torch

from apercu.filters.base import ADDED_LATER, Channels, Filter
from apercu.filters.checks import check_choice, check_whole
from apercu.filters.ordered import Ranks, dither, dither_softly, select_planes
from apercu.types import Images

SIZE, SIGMA = 64, 1.5
"""Side of the matrix, and width of the Gaussian that measures how dense bright pixels lie."""
INITIAL_SPACING = 10
"""One pixel in so many is bright in the initial pattern."""


@final
@dataclass(frozen=True)
class BlueNoise(Filter):
    """Dithers with a void-and-cluster matrix of 64 × 64 (Ulichney 1993).

    Args:
        bits: bits of each channel, 1 to 4.
        seed: seed of the matrix.
        channels: whether each channel is dithered, or the grey image.

    Raises:
        ConfigError: a setting is out of range.
    """

    bits: int = 1
    seed: int = 0
    channels: Channels = field(default="each", metadata=ADDED_LATER)

    def __post_init__(self) -> None:
        check_whole("blue_noise", 1, 4, bits=self.bits)
        check_whole("blue_noise", 0, 2**32 - 1, seed=self.seed)
        check_choice("blue_noise", "channels", self.channels, get_args(Channels))

    def apply(self, images: Images) -> Images:
        planes, ranks = select_planes(images, self.channels), compute_blue_noise_ranks(self.seed)
        return dither(planes, ranks, self.bits).expand_as(images).contiguous()

    def apply_surrogate(self, images: Images) -> Images:
        planes, ranks = select_planes(images, self.channels), compute_blue_noise_ranks(self.seed)
        return dither_softly(planes, ranks, self.bits).expand_as(images)


@lru_cache
def compute_blue_noise_ranks(seed: int) -> Ranks:
    """Compute the ranks of the pixels of the matrix by void-and-cluster.

    An even pattern of few bright pixels is made first. These are removed one by one, always from
    the tightest cluster, and ranked backwards. All others are added to the pattern one by one,
    always in the largest void, and ranked forwards. Ulichney's third phase, which removes the dark
    pixels from their clusters, picks the same ones: on a torus their density is a constant less
    that of the bright pixels.
    """
    pattern = _Pattern(seed)
    pattern.balance_pattern()
    start, count = pattern.copy(), int(pattern.bright.sum())
    ranks = np.empty(SIZE * SIZE, dtype=np.int64)
    for rank in reversed(range(count)):
        ranks[start.flip_pixel(start.find_tightest_cluster())] = rank
    for rank in range(count, SIZE * SIZE):
        ranks[pattern.flip_pixel(pattern.find_largest_void())] = rank
    return torch.from_numpy(ranks).view(SIZE, SIZE)


class _Pattern:
    """Bright pixels on a torus, and how dense they lie around each pixel."""

    def __init__(self, seed: int) -> None:
        pixels = np.random.default_rng(seed).permutation(SIZE * SIZE)
        distances = np.minimum(np.arange(SIZE), SIZE - np.arange(SIZE))
        bell = np.exp(-0.5 * (distances / SIGMA) ** 2)
        self.bells = np.tile(np.outer(bell, bell), (2, 2))
        self.bright = np.zeros(SIZE * SIZE, dtype=bool)
        self.density = np.zeros((SIZE, SIZE))
        for pixel in pixels[: SIZE * SIZE // INITIAL_SPACING]:
            self.flip_pixel(int(pixel))

    def copy(self) -> _Pattern:
        twin = object.__new__(_Pattern)
        twin.bells, twin.bright = self.bells, self.bright.copy()
        twin.density = self.density.copy()
        return twin

    def flip_pixel(self, pixel: int) -> int:
        """Turn a pixel bright or dark, and return its index."""
        row, column = divmod(pixel, SIZE)
        bell = self.bells[SIZE - row : 2 * SIZE - row, SIZE - column : 2 * SIZE - column]
        self.density += -bell if self.bright[pixel] else bell
        self.bright[pixel] = not self.bright[pixel]
        return pixel

    def find_tightest_cluster(self) -> int:
        """Return the bright pixel whose neighbourhood is densest."""
        return int(np.where(self.bright, self.density.ravel(), -np.inf).argmax())

    def find_largest_void(self) -> int:
        """Return the dark pixel whose neighbourhood is emptiest."""
        return int(np.where(self.bright, np.inf, self.density.ravel()).argmin())

    def balance_pattern(self) -> None:
        """Move pixels from the tightest cluster to the largest void, until one would return."""
        while self.flip_pixel(self.find_tightest_cluster()) != self.flip_pixel(
            self.find_largest_void()
        ):
            pass
