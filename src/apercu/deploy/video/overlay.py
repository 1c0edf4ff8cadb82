"""Draw heat, class and probability over pictures, in the planes of the video."""

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
"""The value of a colour plane without colour."""
TEXT_ROWS = 24
"""Lines of text that fit into the height of a picture."""
TEXT_COLUMNS = 8
"""Smallest width of a picture, in heights of its text."""
MIN_PANEL_WIDTH = 4
"""Smallest width of a panel in heights of its text; a narrower one has no room for the number."""
MIN_TEXT_HEIGHT = 12
"""Smallest height of readable text, in pixels."""
PANEL_WIDTH = 0.4
"""Smallest fraction of the width that the panel takes."""
PANEL_BRIGHTNESS = 0.3
"""Fraction of the picture's brightness that stays below the panel."""
BLACK, WHITE = 16, 235


@final
class HeatOverlay:
    """The heat of one map, for pictures of one size.

    Args:
        map: a map in 256 steps, `height × width`, uint8.
        size: the width and height of the pictures.
        matrix: the colour standard of the pictures.
    """

    def __init__(self, map: Plane, size: tuple[int, int], matrix: ColourMatrix) -> None:
        bright, cover, cold, warm = build_tables(matrix)
        whole = _enlarge_map(map, size)
        half = _enlarge_map(map, (size[0] // 2, size[1] // 2))
        self._cover, self._bright = whole.point(cover), whole.point(bright)
        self._colours = np.asarray(half.point(cold)), np.asarray(half.point(warm))

    def draw_over(self, picture: VideoFrame) -> VideoFrame:
        """Return a new picture: heat where the map is high, grey where it is low."""
        frame = VideoFrame(picture.width, picture.height, PIXEL_FORMAT)
        copy_timing(frame, picture)
        frame.colorspace = picture.colorspace
        below = Image.fromarray(view_plane(picture, 0))
        view_plane(frame, 0)[:] = np.asarray(Image.composite(self._bright, below, self._cover))
        for number, colour in enumerate(self._colours, start=1):
            view_plane(frame, number)[:] = colour
        return frame


@lru_cache(maxsize=4)
def build_tables(matrix: ColourMatrix) -> tuple[list[int], ...]:
    """Return for each step of a map the brightness of its heat, its opacity, and two colours."""
    heat = torch.linspace(0, 1, LEVELS)
    rgb: NDArray[np.float64] = render.heat_colours(heat[None])[:, 0].T.double().numpy()
    bright, cold, warm = np.moveaxis(matrix.convert_to_planes(rgb), -1, 0)
    cover = render.HEAT_OPACITY * heat.sqrt().double().numpy()
    colours = [NEUTRAL_COLOUR + cover * (plane - NEUTRAL_COLOUR) for plane in (cold, warm)]
    tables = (bright, 255 * cover, *colours)
    return tuple(np.rint(table).astype(int).tolist() for table in tables)


def _enlarge_map(map: Plane, size: tuple[int, int]) -> Image.Image:
    """Enlarge a map to a width and height, bilinear, with aligned pixel centres."""
    frame = VideoFrame.from_ndarray(map, "gray")
    large = frame.reformat(width=size[0], height=size[1], interpolation="BILINEAR")
    return Image.fromarray(view_plane(large, 0))


@final
class Caption:
    """The panel at the lower left of pictures of one size; small pictures have no room for it.

    Args:
        size: the width and height of the pictures.
        matrix: the colour standard of the pictures.

    Attributes:
        fits: whether there is room for the panel.
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

    def draw_on(
        self, picture: VideoFrame, class_name: str, probability: float, is_estimate: bool = False
    ) -> None:
        """Draw the panel on a picture, in place; an estimated probability has a ~ before it."""
        if not self.fits:
            return
        bright, cold, warm = (view_plane(picture, number) for number in range(3))
        sign = "~ " if is_estimate else ""
        self._draw_panel(bright, class_name, f"{sign}{probability:.0%}")
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
    """Draw a name at the left and a number at the right of a panel.

    Args:
        title: the name, shortened until it fits.
        value: the number with its unit.
        size: the width and height of the panel.
        pen: the height of the text, and the gap around it, in pixels.

    Returns:
        The ink in [0, 1], `height × width`; 1 where there is text.
    """
    height, gap = pen
    image = Image.new("L", size)
    font = ImageFont.load_default(size=height)
    draw = ImageDraw.Draw(image)
    room = int(size[0] - 3 * gap - font.getlength(value))
    draw.text((gap, gap // 2), render.cut_to_width(title, font, room), 255, font)
    draw.text((size[0] - gap, gap // 2), value, 255, font, anchor="ra")
    return np.asarray(image, np.float32) / np.float32(255)


def round_down_to_even(value: int) -> int:
    """Return the next even number below, since colour comes in blocks of two by two."""
    return value // 2 * 2


@final
class FrameOverlay:
    """Draws over frames; the heat of a map is computed once for all frames that show it.

    Args:
        frame_format: the size and the colour standard of the frames.
    """

    def __init__(self, frame_format: FrameFormat) -> None:
        self.frame_format = frame_format
        self._caption = Caption(frame_format.size, frame_format.matrix)
        self._previous: tuple[OverlayContent, HeatOverlay] | None = None

    def __call__(self, picture: VideoFrame, content: OverlayContent) -> VideoFrame:
        """Return a new picture with heat, class and probability over the old one."""
        if self._previous is None or self._previous[0] is not content:
            self._previous = (
                content,
                HeatOverlay(content.heat, self.frame_format.size, self.frame_format.matrix),
            )
        frame = self._previous[1].draw_over(picture)
        self._caption.draw_on(frame, content.class_name, content.probability, content.is_estimate)
        return frame
