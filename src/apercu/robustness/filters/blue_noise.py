"""Dithering with blue noise: thresholds without structure that the eye, or a network, could see."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import final, get_args

import numpy as np
import torch

from apercu.robustness.filters.base import (
    ADDED_LATER,
    Channels,
    Filter,
    check_choice,
    check_whole,
)
from apercu.robustness.filters.ordered import Ranks, dither, dither_softly, select_planes
from apercu.types import Images

SIZE, SIGMA = 64, 1.5
"""Side of the matrix, and the width of the Gaussian by which a place feels its neighbours."""
FIRST = 10
"""One place in so many is bright in the pattern to start from."""


@final
@dataclass(frozen=True)
class BlueNoise(Filter):
    """Dithers with a void-and-cluster matrix of 64 × 64 (Ulichney 1993).

    Args:
        bits: of each channel, 1 to 4.
        seed: of the matrix.
        channels: what is a plane.

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
    """Ranks by void-and-cluster.

    An even pattern of few bright places is made first. Taken away from its tightest clusters, they
    are ranked backwards; put into the largest voids, all others are ranked forwards. Ulichney's
    third phase, the clusters of the dark places, picks the same: on a torus their density is a
    constant less that of the bright.
    """
    pattern = _Pattern(seed)
    pattern.even_out()
    start, count = pattern.copy(), int(pattern.bright.sum())
    ranks = np.empty(SIZE * SIZE, dtype=np.int64)
    for rank in reversed(range(count)):
        ranks[start.flip_pixel(start.find_tightest_cluster())] = rank
    for rank in range(count, SIZE * SIZE):
        ranks[pattern.flip_pixel(pattern.find_largest_void())] = rank
    return torch.from_numpy(ranks).view(SIZE, SIZE)


class _Pattern:
    """Bright places on a torus, and how dense they lie around each place."""

    def __init__(self, seed: int) -> None:
        places = np.random.default_rng(seed).permutation(SIZE * SIZE)
        distances = np.minimum(np.arange(SIZE), SIZE - np.arange(SIZE))
        bell = np.exp(-0.5 * (distances / SIGMA) ** 2)
        self.bells = np.tile(np.outer(bell, bell), (2, 2))
        self.bright = np.zeros(SIZE * SIZE, dtype=bool)
        self.density = np.zeros((SIZE, SIZE))
        for place in places[: SIZE * SIZE // FIRST]:
            self.flip_pixel(int(place))

    def copy(self) -> _Pattern:
        twin = object.__new__(_Pattern)
        twin.bells, twin.bright = self.bells, self.bright.copy()
        twin.density = self.density.copy()
        return twin

    def flip_pixel(self, place: int) -> int:
        """Turns a place bright or dark, and returns it."""
        row, column = divmod(place, SIZE)
        bell = self.bells[SIZE - row : 2 * SIZE - row, SIZE - column : 2 * SIZE - column]
        self.density += -bell if self.bright[place] else bell
        self.bright[place] = not self.bright[place]
        return place

    def find_tightest_cluster(self) -> int:
        """The bright place in the densest company."""
        return int(np.where(self.bright, self.density.ravel(), -np.inf).argmax())

    def find_largest_void(self) -> int:
        """The dark place farthest from the bright ones."""
        return int(np.where(self.bright, np.inf, self.density.ravel()).argmin())

    def even_out(self) -> None:
        """Moves the tightest cluster into the largest void until it is where it came from."""
        while self.flip_pixel(self.find_tightest_cluster()) != self.flip_pixel(
            self.find_largest_void()
        ):
            pass
