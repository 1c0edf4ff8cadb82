"""How small and how large a picture may be; checked from the header, before anything is decoded."""

from __future__ import annotations

from apercu.errors import ImageError

SMALLEST_SIDE = 2
"""Pixels. On one line of pixels there is no place to point at."""

LARGEST_AREA = 100_000_000
"""Pixels. A header may promise more than memory can hold."""


def check_size(name: str, height: int, width: int) -> None:
    """Raises ImageError for a picture whose sides are out of range."""
    if min(height, width) < SMALLEST_SIDE:
        raise ImageError(
            f"{name}: too small to explain, expected at least {SMALLEST_SIDE} × {SMALLEST_SIDE} "
            f"pixels, got {width} × {height} (width × height)"
        )
    if height * width > LARGEST_AREA:
        raise ImageError(
            f"{name}: too large, expected at most {LARGEST_AREA // 1_000_000} megapixels, "
            f"got {width} × {height} (width × height); resize it first"
        )
