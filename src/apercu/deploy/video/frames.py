"""How a video's brightness and two colour differences are made of red, green and blue."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

HD_HEIGHT = 720
"""Rows from which a video that does not say is taken for high definition, as players do."""


@dataclass(frozen=True)
class ColourMatrix:
    """The weights of one standard, and its numbers.

    Attributes:
        red: weight in brightness.
        blue: weight in brightness; green has the rest.
        scaler: number of the standard in libswscale.
        tag: number in a file (ITU-T H.273).
    """

    red: float
    blue: float
    swscale_id: int
    h273_id: int

    def convert_to_planes(self, rgb: NDArray[np.float64]) -> NDArray[np.float64]:
        """Colours in [0, 1], `… × 3`, as Y, Cb, Cr of limited range (16 to 235, or 240)."""
        red, green, blue = np.moveaxis(rgb, -1, 0)
        bright = self.red * red + (1 - self.red - self.blue) * green + self.blue * blue
        cold = (blue - bright) / (1 - self.blue) / 2
        warm = (red - bright) / (1 - self.red) / 2
        return np.stack((16 + 219 * bright, 128 + 224 * cold, 128 + 224 * warm), -1)


BT601 = ColourMatrix(0.299, 0.114, 5, 6)
BT709 = ColourMatrix(0.2126, 0.0722, 1, 1)
BT2020 = ColourMatrix(0.2627, 0.0593, 9, 9)
_MATRICES = {1: BT709, 5: BT601, 6: BT601, 9: BT2020, 10: BT2020}


def find_matrix(frame: VideoFrame) -> ColourMatrix:
    """The standard of a decoded frame: what it says, else what players take for its height."""
    return _MATRICES.get(int(frame.colorspace), BT709 if frame.height >= HD_HEIGHT else BT601)


PIXEL_FORMAT = "yuv420p"
"""Full brightness, colour at half the size, 8 bits: what every player takes."""
VIDEO_RANGE, FULL_RANGE = 1, 2
QUARTER_TURN = 90
EXACT_SCALING = int(
    Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
)
"""How a picture is made small; without the second flag its colours would be half as fine."""

Plane: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameFormat:
    """What all upright pictures of a video have in common.

    Attributes:
        size: width and height, each even: colour comes in blocks of two by two.
        pixel: width of a pixel over its height.
        matrix: of their colours.
    """

    size: tuple[int, int]
    pixel_aspect: Fraction
    matrix: ColourMatrix

    @classmethod
    def from_frame(cls, frame: VideoFrame, pixel_aspect: Fraction | None) -> FrameFormat:
        """That of a video, known by a decoded frame and the shape of the stream's pixels."""
        width, height, pixel_aspect = frame.width, frame.height, pixel_aspect or Fraction(1)
        if frame.rotation % 180:
            width, height, pixel_aspect = height, width, 1 / pixel_aspect
        return cls((width + width % 2, height + height % 2), pixel_aspect, find_matrix(frame))


def view_plane(picture: VideoFrame, index: int) -> Plane:
    """A plane of a picture, as a view: rows × columns."""
    one: Any = picture.planes[index]
    rows = np.frombuffer(one, np.uint8).reshape(-1, one.line_size)
    return rows[: one.height, : one.width]


def make_upright(frame: VideoFrame, frame_format: FrameFormat) -> VideoFrame:
    """A decoded frame of any format as `PLANAR`, upright and opaque, of limited range.

    Transparency is laid over white. An odd side is stretched by one pixel.

    Args:
        frame: with the rotation and the mirror that its file asks for.
        look: of the result.
    """
    turns, flip = round(frame.rotation / QUARTER_TURN) % 4, is_mirrored(frame)
    width, height = frame_format.size[::-1] if turns % 2 else frame_format.size
    if any(component.is_alpha for component in frame.format.components):
        frame = _lay_over_white(frame)
    fits = (frame.format.name, frame.width, frame.height) == (PIXEL_FORMAT, width, height)
    if not fits or frame.color_range == FULL_RANGE:
        frame = frame.reformat(
            width=width,
            height=height,
            format=PIXEL_FORMAT,
            src_colorspace=find_matrix(frame).swscale_id,
            dst_colorspace=frame_format.matrix.swscale_id,
            dst_color_range=VIDEO_RANGE,
            interpolation="BICUBIC",
        )
    if turns or flip:
        frame = _rotate(frame, turns, flip)
    frame.colorspace = frame_format.matrix.h273_id
    return frame


def is_mirrored(frame: VideoFrame) -> bool:
    """Whether its file asks for a mirror: it is turned once it has been flipped top to bottom."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return False
    (right, down, _), (across, below, _), _ = np.frombuffer(found, np.int32).reshape(3, 3).tolist()
    return bool(right * below < down * across)


def prepare_image(picture: VideoFrame, size: tuple[int, int], channels: int) -> NDArray[np.float32]:
    """A picture as an explainer takes it: whole, squashed, in [0, 1].

    Args:
        picture: upright.
        size: height and width of the image.
        channels: 3, or 1 for grey.
    """
    small = picture.reformat(
        width=size[1],
        height=size[0],
        format="rgb24" if channels == 3 else "gray",
        src_colorspace=find_matrix(picture).swscale_id,
        dst_color_range=FULL_RANGE,
        interpolation=EXACT_SCALING,
    )
    pixels = small.to_ndarray().reshape(*size, channels).transpose(2, 0, 1)
    return np.ascontiguousarray(pixels, np.float32) / np.float32(255)


def copy_timing(picture: VideoFrame, other: VideoFrame) -> None:
    """Shows a picture when another was to be shown, and for as long."""
    picture.pts, picture.time_base = other.pts, other.time_base
    picture.duration = other.duration


def _lay_over_white(frame: VideoFrame) -> VideoFrame:
    pixels = frame.reformat(
        format="rgba", src_colorspace=find_matrix(frame).swscale_id
    ).to_ndarray()
    cover = pixels[..., 3:].astype(np.uint16)
    mixed = (pixels[..., :3] * cover + 255 * (255 - cover) + 127) // 255
    opaque = VideoFrame.from_ndarray(mixed.astype(np.uint8), "rgb24")
    copy_timing(opaque, frame)
    return opaque


def _rotate(picture: VideoFrame, turns: int, flip: bool) -> VideoFrame:
    """Flipped top to bottom where asked, then turned anticlockwise by quarters."""
    width, height = picture.width, picture.height
    turned = VideoFrame(*((height, width) if turns % 2 else (width, height)), PIXEL_FORMAT)
    for number in range(3):
        view_plane(turned, number)[:] = np.rot90(
            view_plane(picture, number)[:: -1 if flip else 1], turns
        )
    copy_timing(turned, picture)
    return turned
