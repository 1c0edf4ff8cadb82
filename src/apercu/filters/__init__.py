"""Input filters that defend a classifier, and a filter as a layer in front of a classifier."""

from __future__ import annotations

from apercu.filters.base import BpdaMode, Filter, FilterLayer
from apercu.filters.bit_depth import BitDepth
from apercu.filters.blue_noise import BlueNoise
from apercu.filters.error_diffusion import (
    Atkinson,
    ErrorDiffusion,
    FloydSteinberg,
    JarvisJudiceNinke,
)
from apercu.filters.gaussian import Gaussian
from apercu.filters.inverse_halftone import InverseHalftone
from apercu.filters.jpeg import Jpeg
from apercu.filters.low_resolution import LowResolution
from apercu.filters.median import Median
from apercu.filters.non_local_means import NonLocalMeans
from apercu.filters.ordered import Bayer
from apercu.filters.total_variation import TotalVariation

FILTERS: dict[str, type[Filter]] = {
    "floyd_steinberg": FloydSteinberg,
    "jarvis_judice_ninke": JarvisJudiceNinke,
    "atkinson": Atkinson,
    "bayer": Bayer,
    "blue_noise": BlueNoise,
    "inverse_halftone": InverseHalftone,
    "jpeg": Jpeg,
    "bit_depth": BitDepth,
    "median": Median,
    "gaussian": Gaussian,
    "total_variation": TotalVariation,
    "non_local_means": NonLocalMeans,
    "low_resolution": LowResolution,
}
"""Filter classes by the names that people type."""

__all__ = [
    "FILTERS",
    "Atkinson",
    "Bayer",
    "BitDepth",
    "BlueNoise",
    "BpdaMode",
    "ErrorDiffusion",
    "Filter",
    "FilterLayer",
    "FloydSteinberg",
    "Gaussian",
    "InverseHalftone",
    "JarvisJudiceNinke",
    "Jpeg",
    "LowResolution",
    "Median",
    "NonLocalMeans",
    "TotalVariation",
]
