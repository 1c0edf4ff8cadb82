"""Halftones by error diffusion: the rounding error of a pixel is passed on to its neighbours.

The loop is compiled, works in Pillow's arithmetic, and treats many planes side by side.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from typing import ClassVar, Literal, NamedTuple, TypeAlias, final, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu.extras import is_installed, require_extra
from apercu.filters.base import (
    Channels,
    Filter,
    convert_bytes_to_grey,
    convert_to_grey,
    to_bytes,
)
from apercu.filters.checks import check_choice, check_whole
from apercu.filters.gaussian import blur
from apercu.types import Images

LANES = 32
"""Planes that one loop treats side by side: they fill two of the widest registers."""
FEW_PLANES = 10
"""Largest number of planes for which Pillow is quicker than the loop; the bits are the same."""
HAS_NUMBA = is_installed("fast")

Scan: TypeAlias = Literal["raster", "serpentine"]
"""Every row from the left, or every second row from the right."""

Planes: TypeAlias = Float[Tensor, "planes height width"]
"""Values in [0, 1], float32, on the CPU."""


class DiffusionKernel(NamedTuple):
    """The weights with which an error is passed on.

    Attributes:
        ahead: weights of the next two pixels of the scan.
        below: weights of the next two rows, each from two pixels behind to two pixels ahead.
        divisor: number by which all weights are divided.
    """

    ahead: tuple[int, int]
    below: tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]
    divisor: int


@dataclass(frozen=True)
class ErrorDiffusion(Filter):
    """Passes the rounding error of each pixel on to its neighbours, in Pillow's arithmetic.

    Images are rounded to 8 bits first. A pixel receives its part of the errors around it, cut to a
    whole number; the sum is clamped to [0, 255] and rounded to the nearest of 2^bits even levels.
    Runs on the CPU, with numba on torch's number of threads; without numba only Pillow's own
    halftone is possible: floyd_steinberg, raster, 1 bit. The surrogate is what the eye sees of a
    halftone: the image under a narrow blur.

    Args:
        bits: bits of each channel, 1 to 4.
        scan: order of the pixels.
        channels: whether each channel is halftoned, or the grey image.

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
        """The weights with which an error is passed on."""

    def __post_init__(self) -> None:
        check_whole("error diffusion", 1, 4, bits=self.bits)
        check_choice("error diffusion", "scan", self.scan, get_args(Scan))
        check_choice("error diffusion", "channels", self.channels, get_args(Channels))
        if not (HAS_NUMBA or self._is_in_pillow):
            require_extra("fast", str(self))

    @property
    def _is_in_pillow(self) -> bool:
        return isinstance(self, FloydSteinberg) and self.bits == 1 and self.scan == "raster"

    @property
    def graph_obstacle(self) -> str:
        if self.scan == "serpentine":
            return "its rows run in turn from the left and from the right; use scan=raster"
        return ""

    def apply(self, images: Images) -> Images:
        pixels = images.float().cpu()
        if self.channels == "grey":
            pixels = convert_bytes_to_grey(to_bytes(pixels)) / 255
        planes = pixels.flatten(0, 1).contiguous()
        if torch.compiler.is_exporting():
            from apercu.filters.wavefront import diffuse_error_by_lines

            halftones = diffuse_error_by_lines(planes, self.kernel, self.bits)
        elif self._is_in_pillow and (len(planes) <= FEW_PLANES or not HAS_NUMBA):
            halftones = _dither_with_pillow(planes)
        else:
            halftones = diffuse_error(planes, self.kernel, self.bits, self.scan == "serpentine")
        return halftones.view(pixels.shape).to(images).expand_as(images).contiguous()

    def apply_surrogate(self, images: Images) -> Images:
        planes = convert_to_grey(images) if self.channels == "grey" else images
        return blur(planes, self.BLUR).expand_as(images)


@final
@dataclass(frozen=True)
class FloydSteinberg(ErrorDiffusion):
    """Passes errors on to four neighbours (Floyd & Steinberg 1976).

    At 1 bit in raster order the bits are those of Pillow.
    """

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((7, 0), ((0, 3, 5, 1, 0), (0, 0, 0, 0, 0)), 16)


@final
@dataclass(frozen=True)
class JarvisJudiceNinke(ErrorDiffusion):
    """Passes errors on to twelve neighbours (Jarvis, Judice & Ninke 1976)."""

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((7, 5), ((3, 5, 7, 5, 3), (1, 3, 5, 3, 1)), 48)


@final
@dataclass(frozen=True)
class Atkinson(ErrorDiffusion):
    """Passes three quarters of an error on to six neighbours (Atkinson, as in HyperScan, 1987)."""

    @property
    def kernel(self) -> DiffusionKernel:
        return DiffusionKernel((1, 1), ((0, 1, 1, 1, 0), (0, 0, 1, 0, 0)), 8)


def _dither_with_pillow(planes: Planes) -> Planes:
    """Return Floyd–Steinberg halftones of 1 bit in raster order, made by Pillow."""
    mode = Image.Dither.FLOYDSTEINBERG
    pixels = to_bytes(planes).numpy()
    halftones = [np.array(Image.fromarray(plane).convert("1", dither=mode)) for plane in pixels]
    return torch.from_numpy(np.stack(halftones)).float()


def diffuse_error(planes: Planes, kernel: DiffusionKernel, bits: int, serpentine: bool) -> Planes:
    """Halftone each plane to 2^bits even levels, which are 8-bit values themselves.

    Planes are rounded to 8 bits. The weighted errors that a pixel receives are summed, divided by
    the kernel's divisor, cut to a whole number and added. The value is clamped to [0, 255] and
    goes to level (value · (2^bits − 1) + 126) // 255, the nearest one; only 128 of two levels
    turns dark, as in Pillow. Torch's threads share the planes.
    """
    loop, halftones = _compile_loop(), torch.empty_like(planes)
    settings = (
        np.array(kernel.ahead, np.float32),
        np.array(kernel.below, np.float32),
        # Slightly more than 1 / divisor: multiples of the divisor stay whole when they are cut.
        np.nextafter(np.float32(1 / kernel.divisor), np.float32(1)),
        np.float32(2**bits - 1),
        serpentine,
    )
    groups = ceil(len(planes) / LANES)
    size = ceil(len(planes) / groups)
    pairs = zip(torch.split(planes, size), torch.split(halftones, size), strict=True)
    calls = [
        partial(loop, some_planes.numpy(), some_halftones.numpy(), *settings)
        for some_planes, some_halftones in pairs
    ]
    threads = min(torch.get_num_threads(), groups)
    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(_run_all, calls[turn::threads]) for turn in range(1, threads)]
        _run_all(calls[::threads])
        for future in futures:
            future.result()
    return halftones


def _run_all(calls: Sequence[Callable[[], None]]) -> None:
    """Run the calls one after the other."""
    for call in calls:
        call()


@lru_cache
def _compile_loop() -> Callable[..., None]:
    """Compile `_diffuse_lanes`; the machine code is kept on disk where a folder can be written."""
    import numba

    source = inspect.unwrap(_diffuse_lanes)
    compiler = partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiler(cache=True)(source)
    except RuntimeError:
        return compiler()(source)


def _diffuse_lanes(planes, halftones, ahead, below, inverse, steps, serpentine):  # type: ignore[no-untyped-def]
    """Halftone up to LANES planes in lockstep, pixel by pixel; all values are whole numbers.

    The errors of earlier rows are summed for a whole row; only those of the last two pixels are
    left for the scan.
    """
    count, rows, columns = planes.shape
    width, rim = columns * LANES, 2 * LANES
    errors = np.zeros((3, width + 2 * rim), np.float32)
    sums, pixels = np.zeros(width, np.float32), np.zeros(width, np.float32)
    last, before = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    near, far, black, white = ahead[0], ahead[1], np.float32(0), np.float32(255)
    scale, gap, tie = steps / white, white / steps, np.float32(126.5 / 255)
    for y in range(rows):
        for lane in range(count):
            for x in range(columns):
                pixels[x * LANES + lane] = planes[lane, y, x]
        for i in range(width):
            pixels[i] = np.rint(pixels[i] * white)
        sums[:] = 0
        for up in range(1, 3):
            mirrored = serpentine and (y - up) % 2 == 1
            for offset in range(5):
                weight = below[up - 1, offset]
                if weight != 0:
                    start = (offset if mirrored else 4 - offset) * LANES
                    row = errors[(y - up) % 3, start : start + width]
                    for i in range(width):
                        sums[i] += weight * row[i]
        last[:] = 0
        before[:] = 0
        backwards = serpentine and y % 2 == 1
        for step in range(columns):
            start = (columns - 1 - step if backwards else step) * LANES
            own, incoming = pixels[start : start + LANES], sums[start : start + LANES]
            stored = errors[y % 3, start + rim : start + rim + LANES]
            for lane in range(LANES):
                error = incoming[lane] + far * before[lane] + near * last[lane]
                value = own[lane] + np.trunc(error * inverse)
                value = value if value > black else black
                value = value if value < white else white
                level = np.rint(np.trunc(value * scale + tie) * gap)
                own[lane] = level
                before[lane] = last[lane]
                last[lane] = value - level
                stored[lane] = value - level
        for i in range(width):
            pixels[i] = pixels[i] / white
        for lane in range(count):
            for x in range(columns):
                halftones[lane, y, x] = pixels[x * LANES + lane]
