"""Which outputs of a network's layers are maps of the image, and how they are read as maps.

Shapes alone do not tell: an attention matrix has rows and columns too, a map may have its
channels last, and fifty tokens may be seven by seven positions after one token, or six by six after
fourteen. So the halves of an image are changed, one after the other. In a map the change is where
the half is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.types import Images

MAX_EXTRA_TOKENS = 16
"""The largest number of tokens without a position (class, distillation, registers)."""
MIN_SHIFT = 0.12
"""Smallest distance between the centres of two changes, relative to the map; half is exact."""
MAX_PATCH_ASPECT = 2.0
"""Largest ratio of the sides of a token's patch of pixels."""
GOOD_SHARE = 0.85
"""Share of the largest distance from which on grids of tokens fit about as well as the best."""
SMALL_GRID = 3
"""Rows and columns up to which a map with the channels first is recognised by its shape alone."""
_NOISE_CELLS = 8
_PROBES = 5


class MapLayout(NamedTuple):
    """How the output of a layer is read as a map.

    Attributes:
        rows: rows of the map.
        columns: columns of the map.
        form: where the output has its channels, or `tokens` for a sequence of them.
        start: the first token that has a position; None where those with a position are the last.
    """

    rows: int
    columns: int
    form: Literal["channels_first", "channels_last", "tokens"]
    start: int | None = None

    def read(self, features: Tensor) -> Float[Tensor, "batch channels rows columns"]:
        """Return an output of the layer, or its gradient, as a map with the channels first."""
        if self.form == "channels_first":
            return features
        if self.form == "channels_last":
            return features.movedim(3, 1)
        count = self.rows * self.columns
        start = features.shape[1] - count if self.start is None else self.start
        positions = features[:, start : start + count].movedim(2, 1)
        return positions.reshape(*positions.shape[:2], self.rows, self.columns)


def make_probes(channels: int, size: tuple[int, int]) -> Images:
    """Return images of noise by which maps are recognised.

    Args:
        channels: channels of the images.
        size: height and width in pixels.

    Returns:
        An image, and the same one with its left, right, upper and lower half changed,
        `5 × channels × height × width` in [0, 1].
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(2, channels, _NOISE_CELLS, _NOISE_CELLS, generator=generator)
    first, second = F.interpolate(noise, size)
    is_right = torch.arange(size[1]) >= size[1] / 2
    is_low = (torch.arange(size[0]) >= size[0] / 2)[:, None]
    halves = (~is_right, is_right, ~is_low, is_low)
    return torch.stack([first, *(torch.where(half, second, first) for half in halves)])


def find_layout(outputs: Tensor, size: tuple[int, int]) -> MapLayout | None:
    """Return how the output of a layer is read as a map, or None where it is no map.

    Outputs can be maps with the channels first or last, or sequences of tokens (`batch × tokens ×
    channels`) row by row, with up to `MAX_EXTRA_TOKENS` without a position before them, after them,
    or one before and the others after.

    Args:
        outputs: the output of the layer for the images of `make_probes`.
        size: height and width of these images in pixels.

    Returns:
        The layout, or None.
    """
    if outputs.ndim not in (3, 4) or len(outputs) != _PROBES or not outputs.is_floating_point():
        return None
    changes = (outputs[1:] - outputs[:1]).float()
    if outputs.ndim == 3:
        return _find_token_layout(changes.norm(dim=2), size)
    rows, columns = changes.shape[2:]
    if _covers_image((rows, columns), size) and (
        max(rows, columns) <= SMALL_GRID or _measure_shift(changes.norm(dim=1)) > MIN_SHIFT
    ):
        return MapLayout(rows, columns, "channels_first")
    rows, columns = changes.shape[1:3]
    if _covers_image((rows, columns), size) and _measure_shift(changes.norm(dim=3)) > MIN_SHIFT:
        return MapLayout(rows, columns, "channels_last")
    return None


def _find_token_layout(
    changes: Float[Tensor, "probes tokens"], size: tuple[int, int]
) -> MapLayout | None:
    """Return the grid of tokens in which the changes are where the image was changed.

    A grid without its first rows fits about as well as the whole one, so of grids that fit about
    as well as the best one, those that leave the fewest tokens over are taken.
    """
    shifts: dict[MapLayout, float] = {}
    for rows, columns in _list_grids(changes.shape[1], size):
        extra = changes.shape[1] - rows * columns
        for start in (None, 0, 1)[: 1 + min(extra, 2)]:
            layout = MapLayout(rows, columns, "tokens", start)
            shifts[layout] = _measure_shift(layout.read(changes[:, :, None])[:, 0])
    lowest = max(MIN_SHIFT, GOOD_SHARE * max(shifts.values(), default=0.0))
    fitting = [layout for layout, shift in shifts.items() if shift > lowest]
    return max(fitting, key=lambda grid: (grid.rows * grid.columns, shifts[grid]), default=None)


def _list_grids(tokens: int, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Yield the grids of patches that leave few tokens over, those that leave the fewest first."""
    for extra in range(min(MAX_EXTRA_TOKENS + 1, tokens - 3)):
        count = tokens - extra
        for rows in range(2, count // 2 + 1):
            if count % rows == 0 and _covers_image((rows, count // rows), size):
                yield rows, count // rows


def _covers_image(grid: tuple[int, int], size: tuple[int, int]) -> bool:
    """Return whether the cells of a grid are several, no finer than pixels, and not stretched."""
    if min(grid) < 2 or grid[0] > size[0] or grid[1] > size[1]:
        return False
    aspect = grid[0] * size[1] / (grid[1] * size[0])
    return max(aspect, 1 / aspect) <= MAX_PATCH_ASPECT


def _measure_shift(changes: Float[Tensor, "probes rows columns"]) -> float:
    """Return how far the centre of the change moves with the changed half, on the worse axis.

    It is 0.5 where each half of the map depends on its half of the image alone, and 0 where there
    is no change, or one that is not finite.
    """
    rows, columns = changes.shape[1:]
    total = changes.sum((1, 2))
    if not bool((torch.isfinite(total) & (total > 0)).all()):
        return 0.0
    across = (torch.arange(columns, device=changes.device) + 0.5) / columns
    down = (torch.arange(rows, device=changes.device) + 0.5) / rows
    horizontal = (changes.sum(1) * across).sum(1) / total
    vertical = (changes.sum(2) * down).sum(1) / total
    return float(torch.minimum(horizontal[1] - horizontal[0], vertical[3] - vertical[2]))
