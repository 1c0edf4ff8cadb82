"""Frames of a video as planes of brightness and colour: matrices, orientation, preparation."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np
from av import VideoFrame
from av.video.reformatter import Interpolation
from numpy.typing import NDArray

HD_HEIGHT = 720
"""Height from which a video without a colour tag is taken for high definition, as players do."""


@dataclass(frozen=True)
class ColourMatrix:
    """The weights of one colour standard, and its numbers.

    Attributes:
        red: the weight of red in the brightness.
        blue: the weight of blue in the brightness; green has the rest.
        swscale_id: the number of the standard in libswscale.
        h273_id: its number in a file (ITU-T H.273).
    """

    red: float
    blue: float
    swscale_id: int
    h273_id: int

    def convert_to_planes(self, rgb: NDArray[np.float64]) -> NDArray[np.float64]:
        """Convert colours in [0, 1], `… × 3`, to Y, Cb, Cr of limited range (16 to 235, or 240)."""
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
    """Return the colour standard of a frame: its tag, or what players take for its height."""
    return _MATRICES.get(int(frame.colorspace), BT709 if frame.height >= HD_HEIGHT else BT601)


PIXEL_FORMAT = "yuv420p"
"""Full brightness, colour at half the size, 8 bits: what every player takes."""
VIDEO_RANGE, FULL_RANGE = 1, 2
HDR_TRANSFERS = (16, 18)
"""Transfer functions of HDR, by their numbers in a file (ITU-T H.273)."""
QUARTER_TURN = 90
EXACT_SCALING = int(
    Interpolation.BILINEAR | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND
)
"""Flags for shrinking; without the second one the colours would have half the resolution."""

Plane: TypeAlias = NDArray[np.uint8]


@dataclass(frozen=True)
class FrameFormat:
    """What all upright pictures of a video have in common.

    Attributes:
        size: the width and height, both even, since colour comes in blocks of two by two.
        pixel_aspect: the width of a pixel over its height.
        matrix: the colour standard.
    """

    size: tuple[int, int]
    pixel_aspect: Fraction
    matrix: ColourMatrix

    @classmethod
    def from_frame(cls, frame: VideoFrame, pixel_aspect: Fraction | None) -> FrameFormat:
        """Return the format of a video from a decoded frame and the aspect of its pixels."""
        width, height, pixel_aspect = frame.width, frame.height, pixel_aspect or Fraction(1)
        if frame.rotation % 180:
            width, height, pixel_aspect = height, width, 1 / pixel_aspect
        return cls((width + width % 2, height + height % 2), pixel_aspect, find_matrix(frame))


def view_plane(picture: VideoFrame, index: int) -> Plane:
    """Return a view of one plane of a picture, `rows × columns`."""
    plane: Any = picture.planes[index]
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]


def make_upright(frame: VideoFrame, frame_format: FrameFormat) -> VideoFrame:
    """Convert a decoded frame of any format to an upright, opaque `yuv420p` picture.

    Transparency is laid over white. An odd side is stretched by one pixel.

    Args:
        frame: a decoded frame, with the rotation and the mirror of its file.
        frame_format: the size and the colour standard of the result.

    Returns:
        A picture of limited range.
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
    """Return whether the file of a frame flips it top to bottom, before the rotation."""
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False
    (right, down, _), (across, below, _), _ = np.frombuffer(matrix, np.int32).reshape(3, 3).tolist()
    return bool(right * below < down * across)


def prepare_image(picture: VideoFrame, size: tuple[int, int], channels: int) -> NDArray[np.float32]:
    """Prepare a picture for an explainer: whole, squashed, in [0, 1].

    Args:
        picture: an upright picture.
        size: the height and width of the image.
        channels: 3, or 1 for grey.

    Returns:
        An image, `channels × height × width`.
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
    """Copy the time and the duration of another picture."""
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
    """Flip a picture top to bottom if `flip`, then rotate it anticlockwise by quarter turns."""
    width, height = picture.width, picture.height
    if turns % 2:
        width, height = height, width
    turned = VideoFrame(width, height, PIXEL_FORMAT)
    for number in range(3):
        plane = view_plane(picture, number)
        view_plane(turned, number)[:] = np.rot90(np.flipud(plane) if flip else plane, turns)
    copy_timing(turned, picture)
    return turned
