"""The compiled loop of error diffusion, in Pillow's arithmetic, many planes side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec
from math import ceil
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

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
