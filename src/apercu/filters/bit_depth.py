"""Bit depth: fewer levels per channel (feature squeezing, Xu et al. 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from apercu.filters.base import Filter, round_softly
from apercu.filters.checks import check_whole
from apercu.types import Images


@final
@dataclass(frozen=True)
class BitDepth(Filter):
    """Rounds every pixel to the nearest of 2^bits even levels; the surrogate is a soft staircase.

    Args:
        bits: bits of each channel, 1 to 8.

    Raises:
        ConfigError: a setting is out of range.
    """

    bits: int = 4

    def __post_init__(self) -> None:
        check_whole("bit_depth", 1, 8, bits=self.bits)

    def apply(self, images: Images) -> Images:
        steps = 2**self.bits - 1
        return (images * steps).round() / steps

    def apply_surrogate(self, images: Images) -> Images:
        steps = 2**self.bits - 1
        return round_softly(images * steps) / steps
