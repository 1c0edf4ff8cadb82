"""Error diffusion as a graph: all pixels on a slanted line are halftoned in one step.

Row y lags behind the row above it by so many columns that the errors that it receives are known.
A picture of 224 × 224 takes 670 steps instead of 50,176, and each step is a few operations on
vectors, which ONNX and `torch.export` can hold. The bits are those of `diffuse_error`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan_op as scan

from apercu.filters.error_diffusion import DiffusionKernel, Planes

_OUTSIDE = -1000.0
"""Value of pixels outside of the image: black whatever they receive, so they pass no error on."""


def diffuse_error_by_lines(planes: Planes, kernel: DiffusionKernel, bits: int) -> Planes:
    """Halftone each plane in raster order, by operations that can be traced.

    Args:
        planes: values in [0, 1], `planes × height × width`.
        kernel: weights of the errors.
        bits: bits of each value.

    Returns:
        Halftones, `planes × height × width`.
    """
    width = planes.shape[2]
    lag = find_lag(kernel)
    terms = _list_terms(kernel, lag)
    depth = max(delay for row in terms for delay, _ in row)
    inverse = float(np.nextafter(np.float32(1 / kernel.divisor), np.float32(1)))
    steps = np.float32(2**bits - 1)
    scale, gap = float(steps / np.float32(255)), float(np.float32(255) / steps)
    tie = float(np.float32(126.5 / 255))

    def halftone_line(*values: Tensor) -> list[Tensor]:
        """Halftone the pixels of one line: the last value; the others are errors, newest first."""
        *errors, pixels = values
        received = _sum_errors(errors, terms)
        value = (pixels + (received * inverse).int()).clamp(0, 255)
        level = ((value * scale + tie).floor() * gap).round()
        return [value - level, *(each.clone() for each in errors[:-1]), level.clone()]

    bytes_of_planes = (planes * 255).round().clamp(0, 255)
    lines = _slant_rows(bytes_of_planes, lag)
    start = [torch.zeros_like(planes[:, :, 0]) for _ in range(depth)]
    *_, levels = scan(halftone_line, start, [lines], ())
    return _straighten_rows(levels, lag, width) / 255


def find_lag(kernel: DiffusionKernel) -> int:
    """Return by how many columns each row lags behind the row above it."""
    reaches = [
        (2 - offset) // up
        for up, row in enumerate(kernel.below, 1)
        for offset, weight in enumerate(row)
        if weight
    ]
    return 1 + max(0, *reaches)


def _list_terms(kernel: DiffusionKernel, lag: int) -> list[list[tuple[int, int]]]:
    """Return which errors a pixel receives: of its row, the row above, and the row above that.

    Each is a number of lines ago, and a weight.
    """
    own = [(1, kernel.ahead[0]), (2, kernel.ahead[1])]
    above = [
        [(up * lag - (2 - offset), weight) for offset, weight in enumerate(row)]
        for up, row in enumerate(kernel.below, 1)
    ]
    return [[(delay, weight) for delay, weight in row if weight] for row in (own, *above)]


def _sum_errors(errors: Sequence[Tensor], terms: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
    """Return the weighted errors that the pixels of a line receive, `planes × height`."""
    rows = []
    for up, row in enumerate(terms):
        if row:
            part = reduce(torch.add, [weight * errors[delay - 1] for delay, weight in row])
            rows.append(F.pad(part, (up, 0))[:, : part.shape[1]] if up else part)
    return reduce(torch.add, rows)


def _slant_rows(planes: Planes, lag: int) -> Tensor:
    """Return lines of pixels, `lines × planes × height`, whose rows lag behind each other."""
    height, width = planes.shape[1:]
    count = width + lag * (height - 1)
    padded = F.pad(planes, (0, count + lag - width), value=_OUTSIDE)
    rows = padded.flatten(1)[:, : height * count].reshape(-1, height, count)
    return rows.permute(2, 0, 1)


def _straighten_rows(lines: Tensor, lag: int, width: int) -> Planes:
    """Undo `_slant_rows`; return `planes × height × width`."""
    count, _, height = lines.shape
    flat = F.pad(lines.permute(1, 2, 0).flatten(1), (0, height * lag))
    return flat.reshape(-1, height, count + lag)[..., :width]
