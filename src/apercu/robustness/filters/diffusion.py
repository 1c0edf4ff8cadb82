"""The compiled loop of error diffusion, in Pillow's arithmetic, many planes side by side."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

LANES = 16
"""Planes that one loop treats side by side: a vector register of the widest machines."""
COMPILED = find_spec("numba") is not None

Planes = Float[Tensor, "planes height width"]
"""Whole numbers from 0 to 255."""


class Spread(NamedTuple):
    """Where an error goes: shares of the next pixels of the row, and of the rows below."""

    ahead: tuple[int, int]
    below: tuple[tuple[int, int, int, int, int], tuple[int, int, int, int, int]]
    whole: int


def diffused(planes: Planes, spread: Spread, bits: int, serpentine: bool) -> Planes:
    """Each plane at 2^bits levels. A pixel gets a sixteenth (or so) of the errors around it,

    cut to a whole number, is held in [0, 255], and goes to the nearest level, 128 of two to the
    dark one. The threads are as many as torch has.
    """
    found = torch.empty_like(planes)
    work = _compiled()
    settings = (
        np.array(spread.ahead, np.float32),
        np.array(spread.below, np.float32),
        np.float32(spread.whole),
        np.float32(2**bits - 1),
        serpentine,
    )
    groups = [
        partial(work, one.numpy(), other.numpy(), *settings)
        for one, other in zip(torch.split(planes, LANES), torch.split(found, LANES), strict=True)
    ]
    threads = min(torch.get_num_threads(), len(groups))
    if threads == 1:
        for group in groups:
            group()
    else:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda group: group(), groups))
    return found


@lru_cache
def _compiled() -> Callable[..., None]:
    """`_diffuse` as machine code, kept on disk where that is possible."""
    import numba

    source = inspect.unwrap(_diffuse)
    compiler = partial(numba.njit, nogil=True, error_model="numpy")
    try:
        return compiler(cache=True)(source)
    except RuntimeError:
        return compiler()(source)


def _diffuse(planes, found, ahead, below, whole, steps, serpentine):  # type: ignore[no-untyped-def]
    """Up to LANES planes in lockstep; all numbers are whole, float32 only for the registers' sake.

    What earlier rows hand down is summed for a row at once; what is left to do in the order of the
    scan is the share of the last two pixels.
    """
    count, rows, columns = planes.shape
    width, rim = columns * LANES, 2 * LANES
    errors = np.zeros((3, width + 2 * rim), np.float32)
    sums, pixels = np.zeros(width, np.float32), np.zeros(width, np.float32)
    last, before = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    near, far = ahead[0], ahead[1]
    zero, white, half = np.float32(0), np.float32(255), np.float32(0.5)
    tie, shrink, gap = np.float32(126.5), np.float32(1 / 255), white / steps
    for y in range(rows):
        for lane in range(count):
            for x in range(columns):
                pixels[x * LANES + lane] = planes[lane, y, x]
        sums[:] = 0
        for up in range(1, 3):
            mirrored = serpentine and (y - up) % 2 == 1
            for place in range(5):
                share = below[up - 1, place]
                if share != 0:
                    start = (place if mirrored else 4 - place) * LANES
                    sums += share * errors[(y - up) % 3, start : start + width]
        last[:] = 0
        before[:] = 0
        backwards = serpentine and y % 2 == 1
        for turn in range(columns):
            start = (columns - 1 - turn if backwards else turn) * LANES
            own, handed = pixels[start : start + LANES], sums[start : start + LANES]
            kept = errors[y % 3, start + rim : start + rim + LANES]
            for lane in range(LANES):
                owed = handed[lane] + near * last[lane] + far * before[lane]
                value = own[lane] + np.trunc(owed / whole)
                value = value if value > zero else zero
                value = value if value < white else white
                level = np.trunc((value * steps + tie) * shrink)
                own[lane] = np.trunc(level * gap + half)
                before[lane] = last[lane]
                last[lane] = value - own[lane]
                kept[lane] = last[lane]
        for lane in range(count):
            for x in range(columns):
                found[lane, y, x] = pixels[x * LANES + lane]
