"""Halftones by error diffusion: what a pixel loses by rounding, its neighbours get."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, final, get_args

import numpy as np
import torch
from PIL import Image

from apercu.errors import ConfigError

from apercu.robustness.filters.base import Channels, Filter, check_choice, check_whole
from apercu.robustness.filters.diffusion import DiffusionKernel, Planes, diffuse_error
from apercu.robustness.filters.gaussian import blur
from apercu.robustness.filters.pixel_ops import convert_bytes_to_grey, convert_to_grey, to_bytes
from apercu.types import Images

Scan: TypeAlias = Literal["raster", "serpentine"]
"""Every row from the left, or every second one from the right."""

FEW_PLANES = 10
"""Up to so many planes Pillow is quicker than a loop made for 32; the bits are the same."""


@dataclass(frozen=True)
class ErrorDiffusion(Filter):
    """Works on whole numbers, in Pillow's arithmetic: images are rounded to 8 bits first.

    A pixel takes its share of the errors around it, cut to a whole number, is held in [0, 255] and
    goes to the nearest of 2^bits even levels. Runs on the CPU, with numba on torch's number of
    threads; without it, there is only what Pillow can: floyd_steinberg, raster, 1 bit. `smooth` is
    what the eye sees of a halftone, the image under a narrow blur.

    Args:
        bits: of each channel, 1 to 4.
        scan: order of the pixels.
        channels: what is a plane.

    Raises:
        ConfigError: a setting is out of range, or needs numba, which is not installed.
    """

    bits: int = 1
    scan: Scan = "raster"
    channels: Channels = "each"
    BLUR: ClassVar[float] = 1.0

    @property
    @abstractmethod
    def kernel(self) -> DiffusionKernel:
        """Where an error goes."""

    def __post_init__(self) -> None:
        check_whole("error diffusion", 1, 4, bits=self.bits)
        check_choice("error diffusion", "scan", self.scan, get_args(Scan))
        check_choice("error diffusion", "channels", self.channels, get_args(Channels))
        if not (HAS_NUMBA or self._is_in_pillow):
            raise ConfigError(f"{self}: needs numba; pip install 'apercu[fast]'")

    @property
    def _is_in_pillow(self) -> bool:
        return isinstance(self, FloydSteinberg) and self.bits == 1 and self.scan == "raster"

    def apply(self, images: Images) -> Images:
        pixels = images.float().cpu()
        if self.channels == "grey":
            pixels = convert_bytes_to_grey(to_bytes(pixels)) / 255
        planes = pixels.flatten(0, 1).contiguous()
        if self._is_in_pillow and (len(planes) <= FEW_PLANES or not HAS_NUMBA):
            found = _dither_with_pillow(planes)
        else:
            found = diffuse_error(planes, self.kernel, self.bits, self.scan == "serpentine")
        return found.view(pixels.shape).to(images).expand_as(images).contiguous()

    def apply_surrogate(self, images: Images) -> Images:
        seen = convert_to_grey(images) if self.channels == "grey" else images
        return blur(seen, self.BLUR).expand_as(images)


@final
@dataclass(frozen=True)
class FloydSteinberg(ErrorDiffusion):
    """Four neighbours (Floyd & Steinberg 1976); at 1 bit in raster order the bits of Pillow."""

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((7, 0), ((0, 3, 5, 1, 0), (0, 0, 0, 0, 0)), 16)


@final
@dataclass(frozen=True)
class JarvisJudiceNinke(ErrorDiffusion):
    """Twelve neighbours (Jarvis, Judice & Ninke 1976)."""

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((7, 5), ((3, 5, 7, 5, 3), (1, 3, 5, 3, 1)), 48)


@final
@dataclass(frozen=True)
class Atkinson(ErrorDiffusion):
    """Six neighbours, and a quarter of the error is dropped (Atkinson, as in HyperScan, 1987)."""

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((1, 1), ((0, 1, 1, 1, 0), (0, 0, 1, 0, 0)), 8)


def _dither_with_pillow(planes: Planes) -> Planes:
    """Floyd–Steinberg of 1 bit in raster order, by Pillow."""
    dither = Image.Dither.FLOYDSTEINBERG
    bytes_ = to_bytes(planes).numpy()
    found = [np.array(Image.fromarray(plane).convert("1", dither=dither)) for plane in bytes_]
    return torch.from_numpy(np.stack(found)).float()
