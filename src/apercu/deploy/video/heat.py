"""A map as heat over pictures, drawn in the planes of the video without a way through RGB."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import numpy as np
import torch
from av import VideoFrame
from numpy.typing import NDArray
from PIL import Image

from apercu import render
from apercu.deploy.video.matrix import Matrix
from apercu.deploy.video.picture import PLANAR, Plane, plane, timed

LEVELS = 256
GREY = 128
"""A colour difference of none."""


@final
class Heat:
    """A map, ready to be laid over pictures of one size.

    Args:
        map: in 256 steps, height × width.
        size: width and height of the pictures.
        matrix: of their colours.
    """

    def __init__(self, map: Plane, size: tuple[int, int], matrix: Matrix) -> None:
        bright, cover, cold, warm = tables(matrix)
        whole = _enlarged(map, size)
        half = _enlarged(map, (size[0] // 2, size[1] // 2))
        self._cover, self._bright = whole.point(cover), whole.point(bright)
        self._colours = np.asarray(half.point(cold)), np.asarray(half.point(warm))

    def over(self, picture: VideoFrame) -> VideoFrame:
        """A new picture: heat where the map is high, grey where it is low, as `render.overlay`."""
        drawn = VideoFrame(picture.width, picture.height, PLANAR)
        timed(drawn, picture)
        drawn.colorspace = picture.colorspace
        below = Image.fromarray(plane(picture, 0))
        plane(drawn, 0)[:] = np.asarray(Image.composite(self._bright, below, self._cover))
        for number, colour in enumerate(self._colours, start=1):
            plane(drawn, number)[:] = colour
        return drawn


@lru_cache(maxsize=4)
def tables(matrix: Matrix) -> tuple[list[int], ...]:
    """For each step of a map: brightness of its heat, how much of it covers, and its colour."""
    heat = torch.linspace(0, 1, LEVELS)
    rgb: NDArray[np.float64] = render.heat_colours(heat[None])[:, 0].T.double().numpy()
    bright, cold, warm = np.moveaxis(matrix.planes(rgb), -1, 0)
    cover = render.HEAT_OPACITY * heat.sqrt().double().numpy()
    colours = [GREY + cover * (one - GREY) for one in (cold, warm)]
    rounded = [np.rint(one).astype(int).tolist() for one in (bright, 255 * cover, *colours)]
    return tuple(rounded)


def _enlarged(map: Plane, size: tuple[int, int]) -> Image.Image:
    """Bilinear, pixel centres aligned."""
    frame = VideoFrame.from_ndarray(map, "gray")
    large = frame.reformat(width=size[0], height=size[1], interpolation="BILINEAR")
    return Image.fromarray(plane(large, 0))
