"""A map as heat over pictures, drawn in the planes of the video without a way through RGB."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import numpy as np
import torch
from av import VideoFrame
from numpy.typing import NDArray
from PIL import Image, ImageColor, ImageDraw, ImageFont

from apercu import render
from apercu.deploy.video.frame_explainer import OverlayContent
from apercu.deploy.video.frames import (
    PIXEL_FORMAT,
    ColourMatrix,
    FrameFormat,
    Plane,
    copy_timing,
    view_plane,
)

LEVELS = 256
NEUTRAL_COLOUR = 128
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
        drawn = VideoFrame(picture.width, picture.height, PIXEL_FORMAT)
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
    colours = [NEUTRAL_COLOUR + cover * (one - NEUTRAL_COLOUR) for one in (cold, warm)]
    rounded = [np.rint(one).astype(int).tolist() for one in (bright, 255 * cover, *colours)]
    return tuple(rounded)


def _enlarge_map(map: Plane, size: tuple[int, int]) -> Image.Image:
    """Bilinear, pixel centres aligned."""
    frame = VideoFrame.from_ndarray(map, "gray")
    large = frame.reformat(width=size[0], height=size[1], interpolation="BILINEAR")
    return Image.fromarray(view_plane(large, 0))


TEXT_ROWS = 24
"""Lines of text that a picture is high."""
TEXT_COLUMNS = 8
"""Heights of text that a picture is wide, at least."""
MIN_PANEL_WIDTH = 4
"""Heights of text that a panel is wide, at least: below that, its number has no room."""
MIN_TEXT_HEIGHT = 12
"""Pixels of text that can still be read."""
PANEL_WIDTH = 0.4
"""Share of the width that the panel takes, at least."""
PANEL_BRIGHTNESS = 0.3
"""What is left of the picture's brightness below the panel."""
BLACK, WHITE = 16, 235


@final
class Caption:
    """Draws the panel at the lower left of pictures of one size; nothing where it has no room.

    Args:
        size: width and height of the pictures.
        matrix: of their colours.

    Attributes:
        fits: whether there is room for it.
    """

    def __init__(self, size: tuple[int, int], matrix: ColourMatrix) -> None:
        width, height = size
        self.text_height = max(
            MIN_TEXT_HEIGHT, round(min(height / TEXT_ROWS, width / TEXT_COLUMNS))
        )
        gap = self.text_height // 2
        self.gap = gap
        self.bar_height = max(2, round_down_to_even(self.text_height // 3))
        across = min(width - 2 * gap, max(round(width * PANEL_WIDTH), 12 * self.text_height))
        down = 2 * self.text_height + self.bar_height + gap
        self.right, self.bottom = round_down_to_even(gap + across), round_down_to_even(height - gap)
        self.left, self.top = round_down_to_even(gap), round_down_to_even(self.bottom - down)
        self.fits = across >= MIN_PANEL_WIDTH * self.text_height and self.top >= 0
        ink = np.array(ImageColor.getrgb(render.BOX_COLOUR)) / 255
        self.ink = [int(value) for value in np.rint(matrix.convert_to_planes(ink))]

    @property
    def box(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the panel."""
        return self.left, self.top, self.right, self.bottom

    @property
    def track(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom of the whole bar."""
        bottom = round_down_to_even(self.bottom - self.gap)
        return (
            round_down_to_even(self.left + self.gap),
            bottom - self.bar_height,
            round_down_to_even(self.right - self.gap),
            bottom,
        )

    def draw_on(self, picture: VideoFrame, class_name: str, probability: float) -> None:
        """Draws on a picture itself."""
        if not self.fits:
            return
        bright, cold, warm = (view_plane(picture, number) for number in range(3))
        self._draw_panel(bright, class_name, f"{probability:.0%}")
        left, top, right, bottom = (side // 2 for side in self.box)
        for colour in (cold, warm):
            colour[top:bottom, left:right] = NEUTRAL_COLOUR
        left, top, right, bottom = self.track
        end = round_down_to_even(left + round(probability * (right - left)))
        bright[top:bottom, left:right] = BLACK + (WHITE - BLACK) // 4
        bright[top:bottom, left:end] = self.ink[0]
        for colour, value in zip((cold, warm), self.ink[1:], strict=True):
            colour[top // 2 : bottom // 2, left // 2 : end // 2] = value

    def _draw_panel(self, bright: Plane, title: str, number: str) -> None:
        left, top, right, bottom = self.box
        ink = draw_text(title, number, (right - left, bottom - top), (self.text_height, self.gap))
        below = BLACK + PANEL_BRIGHTNESS * (
            bright[top:bottom, left:right].astype(np.float32) - BLACK
        )
        bright[top:bottom, left:right] = np.rint(below + ink * (WHITE - below))


@lru_cache(maxsize=256)
def draw_text(
    title: str, value: str, size: tuple[int, int], pen: tuple[int, int]
) -> NDArray[np.float32]:
    """A name at the left and a number at the right of a panel, 1 where there is ink.

    Args:
        title: shortened until it fits; of synonyms, the first.
        number: with its unit.
        size: width and height of the panel.
        pen: height of the text, and gap around it.
    """
    height, gap = pen
    image = Image.new("L", size)
    font = ImageFont.load_default(size=height)
    draw = ImageDraw.Draw(image)
    room = int(size[0] - 3 * gap - font.getlength(value))
    draw.text((gap, gap // 2), render.shorten(title.partition(",")[0], font, room), 255, font)
    draw.text((size[0] - gap, gap // 2), value, 255, font, anchor="ra")
    return np.asarray(image, np.float32) / np.float32(255)


def round_down_to_even(value: int) -> int:
    """The next even number below: colour comes in blocks of two by two."""
    return value // 2 * 2


@final
class FrameOverlay:
    """Draws over frames; the heat of a map is made once, for all frames that show it.

    Args:
        look: of the frames.
    """

    def __init__(self, frame_format: FrameFormat) -> None:
        self.frame_format = frame_format
        self._caption = Caption(frame_format.size, frame_format.matrix)
        self._previous: tuple[OverlayContent, HeatOverlay] | None = None

    def __call__(self, picture: VideoFrame, content: OverlayContent) -> VideoFrame:
        """A new picture: heat, class and probability over the old one."""
        if self._previous is None or self._previous[0] is not content:
            self._previous = (
                content,
                HeatOverlay(content.heat, self.frame_format.size, self.frame_format.matrix),
            )
        drawn = self._previous[1].draw_over(picture)
        self._caption.draw_on(drawn, content.class_name, content.probability)
        return drawn
