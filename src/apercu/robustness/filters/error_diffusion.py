"""The compiled loop of error diffusion, in Pillow's arithmetic, many planes side by side."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib.util import find_spec
from math import ceil
from typing import ClassVar, Literal, NamedTuple, TypeAlias, final, get_args

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from apercu.errors import ConfigError
from apercu.robustness.filters.base import Channels, Filter, check_choice, check_whole
from apercu.robustness.filters.gaussian import blur
from apercu.robustness.filters.pixel_ops import convert_bytes_to_grey, convert_to_grey, to_bytes
from apercu.types import Images

LANES = 32
"""Planes that one loop treats side by side: two of the widest registers, so that neither waits."""
HAS_NUMBA = find_spec("numba") is not None

Planes: TypeAlias = Float[Tensor, "planes height width"]
"""Values in [0, 1], float32, on the CPU."""


class DiffusionKernel(NamedTuple):
    """Where an error goes, in parts of `whole`.

    `ahead` has the next two pixels of the scan; `below` the two next rows, each from two pixels
    behind to two ahead.
    """

    ahead: tuple[int, int]
    below: tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]
    divisor: int


def diffuse_error(planes: Planes, spread: DiffusionKernel, bits: int, serpentine: bool) -> Planes:
    """Each plane, rounded to 8 bits, at 2^bits even levels that are 8-bit values themselves.

    What neighbours owe a pixel is divided by `whole`, cut to a whole number and added; the
    value is held in [0, 255] and goes to level (value · (2^bits − 1) + 126) // 255, the nearest,
    but for 128 of two levels, which goes dark as in Pillow. Torch's threads share the planes.
    """
    work, found = _compile_loop(), torch.empty_like(planes)
    settings = (
        np.array(spread.ahead, np.float32),
        np.array(spread.below, np.float32),
        # A touch more than 1 / whole: multiples of `whole` stay whole when they are cut.
        np.nextafter(np.float32(1 / spread.divisor), np.float32(1)),
        np.float32(2**bits - 1),
        serpentine,
    )
    groups = ceil(len(planes) / LANES)
    size = ceil(len(planes) / groups)
    pairs = zip(torch.split(planes, size), torch.split(found, size), strict=True)
    calls = [partial(work, some.numpy(), into.numpy(), *settings) for some, into in pairs]
    threads = min(torch.get_num_threads(), groups)
    with ThreadPoolExecutor(threads) as pool:
        others = [pool.submit(_run_all, calls[turn::threads]) for turn in range(1, threads)]
        _run_all(calls[::threads])
        for other in others:
            other.result()
    return found


def _run_all(calls: Sequence[Callable[[], None]]) -> None:
    for call in calls:
        call()


@lru_cache
def _compile_loop() -> Callable[..., None]:
    """`_diffuse` as machine code, kept on disk where a folder can be written."""
    import numba

    source = inspect.unwrap(_diffuse_lanes)
    compiler = partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiler(cache=True)(source)
    except RuntimeError:
        return compiler()(source)


def _diffuse_lanes(planes, found, ahead, below, part, steps, serpentine):  # type: ignore[no-untyped-def]
    """Up to LANES planes in lockstep, pixel by pixel; float32 holds nothing but whole numbers.

    What earlier rows owe is summed for a whole row; only what the last two pixels owe is left for
    the scan.
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
        for at in range(width):
            pixels[at] = np.rint(pixels[at] * white)
        sums[:] = 0
        for up in range(1, 3):
            mirrored = serpentine and (y - up) % 2 == 1
            for place in range(5):
                share = below[up - 1, place]
                if share != 0:
                    start = (place if mirrored else 4 - place) * LANES
                    row = errors[(y - up) % 3, start : start + width]
                    for at in range(width):
                        sums[at] += share * row[at]
        last[:] = 0
        before[:] = 0
        backwards = serpentine and y % 2 == 1
        for turn in range(columns):
            start = (columns - 1 - turn if backwards else turn) * LANES
            own, owed = pixels[start : start + LANES], sums[start : start + LANES]
            kept = errors[y % 3, start + rim : start + rim + LANES]
            for lane in range(LANES):
                debt = owed[lane] + far * before[lane] + near * last[lane]
                value = own[lane] + np.trunc(debt * part)
                value = value if value > black else black
                value = value if value < white else white
                level = np.rint(np.trunc(value * scale + tie) * gap)
                own[lane] = level
                before[lane] = last[lane]
                last[lane] = value - level
                kept[lane] = value - level
        for at in range(width):
            pixels[at] = pixels[at] / white
        for lane in range(count):
            for x in range(columns):
                found[lane, y, x] = pixels[x * LANES + lane]


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
