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
from apercu.deploy.video.matrix import ColourMatrix
from apercu.deploy.video.picture import PLANAR, Plane, copy_timing, view_plane

LEVELS = 256
GREY = 128
"""A colour difference of none."""


@final
class HeatOverlay:
    """A map, ready to be laid over pictures of one size.

    Args:
        map: in 256 steps, height × width.
        size: width and height of the pictures.
        matrix: of their colours.
    """

    def __init__(self, map: Plane, size: tuple[int, int], matrix: ColourMatrix) -> None:
        bright, cover, cold, warm = build_tables(matrix)
        whole = _enlarge_map(map, size)
        half = _enlarge_map(map, (size[0] // 2, size[1] // 2))
        self._cover, self._bright = whole.point(cover), whole.point(bright)
        self._colours = np.asarray(half.point(cold)), np.asarray(half.point(warm))

    def draw_over(self, picture: VideoFrame) -> VideoFrame:
        """A new picture: heat where the map is high, grey where it is low, as `render.overlay`."""
        drawn = VideoFrame(picture.width, picture.height, PLANAR)
        copy_timing(drawn, picture)
        drawn.colorspace = picture.colorspace
        below = Image.fromarray(view_plane(picture, 0))
        view_plane(drawn, 0)[:] = np.asarray(Image.composite(self._bright, below, self._cover))
        for number, colour in enumerate(self._colours, start=1):
            view_plane(drawn, number)[:] = colour
        return drawn


@lru_cache(maxsize=4)
def build_tables(matrix: ColourMatrix) -> tuple[list[int], ...]:
    """For each step of a map: brightness of its heat, how much of it covers, and its colour."""
    heat = torch.linspace(0, 1, LEVELS)
    rgb: NDArray[np.float64] = render.heat_colours(heat[None])[:, 0].T.double().numpy()
    bright, cold, warm = np.moveaxis(matrix.convert_to_planes(rgb), -1, 0)
    cover = render.HEAT_OPACITY * heat.sqrt().double().numpy()
    colours = [GREY + cover * (one - GREY) for one in (cold, warm)]
    rounded = [np.rint(one).astype(int).tolist() for one in (bright, 255 * cover, *colours)]
    return tuple(rounded)


def _enlarge_map(map: Plane, size: tuple[int, int]) -> Image.Image:
    """Bilinear, pixel centres aligned."""
    frame = VideoFrame.from_ndarray(map, "gray")
    large = frame.reformat(width=size[0], height=size[1], interpolation="BILINEAR")
    return Image.fromarray(view_plane(large, 0))
