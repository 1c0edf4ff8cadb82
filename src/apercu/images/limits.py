"""How small and how large a picture may be; checked from the header, before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from jaxtyping import Float
from torch import Tensor

from apercu.errors import ImageError
from apercu.types import Images

MIN_SIDE = 2
"""Pixels. On one line of pixels there is no place to point at."""

MAX_PIXELS = 100_000_000
"""Pixels. A header may promise more than memory can hold."""

_largest = ContextVar("largest area", default=MAX_PIXELS)


@contextmanager
def limit_pixels(pixels: int) -> Iterator[None]:
    """Within it pictures may have so many pixels, or `LARGEST_AREA` where that is fewer."""
    before = _largest.set(min(pixels, MAX_PIXELS))
    try:
        yield
    finally:
        _largest.reset(before)


def check_size(name: str, height: int, width: int) -> None:
    """Raises ImageError for a picture whose sides are out of range."""
    if min(height, width) < MIN_SIDE:
        raise ImageError(
            f"{name}: too small to explain, expected at least {MIN_SIDE} × {MIN_SIDE} "
            f"pixels, got {width} × {height} (width × height)"
        )
    if height * width > (largest := _largest.get()):
        raise ImageError(
            f"{name}: too large, expected at most {largest / 1_000_000:g} megapixels, "
            f"got {width} × {height} (width × height); resize it first"
        )


def value_range(
    images: Images,
) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
    """The ends of each image's range: 0 and 1, or its own lowest and highest beyond them.

    >>> import torch
    >>> low, high = value_range(torch.tensor([0.2, 300.0]).view(1, 1, 1, 2))
    >>> low.item(), high.item()
    (0.0, 300.0)
    """
    dims = (1, 2, 3)
    return images.amin(dims, keepdim=True).clamp(max=0), images.amax(dims, keepdim=True).clamp(
        min=1
    )
