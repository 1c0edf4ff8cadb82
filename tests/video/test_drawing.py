"""Heat, class and bar on a picture, against the pictures that `apercu explain` draws."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from av import VideoFrame
from PIL import ImageColor

from apercu import render
from apercu.deploy.video.frame_explainer import OverlayContent
from apercu.deploy.video.frames import BT601, BT709, BT2020, ColourMatrix, FrameFormat, view_plane
from apercu.deploy.video.overlay import Caption, FrameOverlay, HeatOverlay

SIZE = (256, 144)


def frame_of(pixels: np.ndarray, matrix: ColourMatrix) -> VideoFrame:
    rgb = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), "rgb24")
    frame = rgb.reformat(format="yuv420p", dst_colorspace=matrix.swscale_id)
    frame.colorspace, frame.pts, frame.time_base = matrix.h273_id, 7, Fraction(1, 50)
    return frame


def rgb_of(frame: VideoFrame, matrix: ColourMatrix) -> np.ndarray:
    picture = frame.reformat(format="rgb24", src_colorspace=matrix.swscale_id)
    return picture.to_ndarray().astype(int)


@pytest.fixture(scope="module")
def map_() -> np.ndarray:
    """From cold to hot, and back, smooth."""
    across = np.linspace(0, 1, 32, dtype=np.float32)
    return (np.outer(1 - abs(2 * across - 1), across) * 255).round().astype(np.uint8)


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020], ids=["601", "709", "2020"])
def test_the_heat_is_that_of_explain(scene, map_, matrix: ColourMatrix) -> None:
    pixels = scene[:144, :256]
    drawn = rgb_of(HeatOverlay(map_, SIZE, matrix).draw_over(frame_of(pixels, matrix)), matrix)
    picture = torch.from_numpy(pixels / 255.0).permute(2, 0, 1).float()
    expected = np.asarray(render.draw_overlay(picture, torch.from_numpy(map_ / 255.0).float()))
    if matrix is BT601:  # whose grey is Pillow's
        assert abs(drawn - expected).mean() < 2.0
        assert np.quantile(abs(drawn - expected), 0.999) <= 12
    else:  # colour alone: hue of the heat, whatever weights make the grey below
        hues = [one[..., 0].astype(int) - one[..., 2] for one in (drawn, expected)]
        assert abs(hues[0] - hues[1]).mean() < 3


def test_what_is_cold_is_the_picture_in_grey(scene) -> None:
    frame = frame_of(scene[:144, :256], BT601)
    drawn = HeatOverlay(np.zeros((8, 8), np.uint8), SIZE, BT601).draw_over(frame)
    np.testing.assert_array_equal(view_plane(drawn, 0), view_plane(frame, 0))
    assert (view_plane(drawn, 1) == 128).all()
    assert (view_plane(drawn, 2) == 128).all()


def test_the_frame_below_is_not_touched(scene) -> None:
    frame = frame_of(scene[:144, :256], BT601)
    before = [view_plane(frame, number).copy() for number in range(3)]
    frame_format = FrameFormat(SIZE, Fraction(1), BT601)
    drawn = FrameOverlay(frame_format)(
        frame, OverlayContent(np.full((8, 8), 255, np.uint8), "day", 0.5)
    )
    for number in range(3):
        np.testing.assert_array_equal(view_plane(frame, number), before[number])
    assert (drawn.pts, drawn.time_base) == (7, Fraction(1, 50))


def test_the_heat_of_a_map_is_computed_once(scene, monkeypatch) -> None:
    created = []

    def create(*arguments: object) -> HeatOverlay:
        created.append(arguments)
        return HeatOverlay(*arguments)

    monkeypatch.setattr("apercu.deploy.video.overlay.HeatOverlay", create)
    overlay = FrameOverlay(FrameFormat(SIZE, Fraction(1), BT601))
    frame = frame_of(scene[:144, :256], BT601)
    first, second = (OverlayContent(np.zeros((8, 8), np.uint8), "day", 0.5) for _ in range(2))
    for content in (first, first, second, second):
        overlay(frame, content)
    assert len(created) == 2


@pytest.mark.parametrize("probability", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("size", [(1280, 720), (640, 360), (128, 96)])
def test_the_bar_is_as_long_as_the_class_is_probable(size, probability: float) -> None:
    label = Caption(size, BT709)
    frame = frame_of(np.full((*size[::-1], 3), 128, np.uint8), BT709)
    label.draw_on(frame, "day", probability)
    left, top, right, bottom = label.track
    row = rgb_of(frame, BT709)[(top + bottom) // 2]
    ink = np.array(ImageColor.getrgb(render.BOX_COLOUR))
    filled = abs(row - ink).max(1) < 16
    assert filled.sum() == pytest.approx(probability * (right - left), abs=3)
    assert not filled[:left].any()
    assert not filled[right:].any()


@pytest.mark.parametrize("is_estimate", [True, False])
def test_an_estimated_probability_is_marked(monkeypatch, map_, is_estimate: bool) -> None:
    numbers: list[str] = []

    def draw(title: str, number: str, size: tuple[int, int], pen: tuple[int, int]) -> np.ndarray:
        numbers.append(number)
        return np.zeros(size[::-1], np.float32)

    monkeypatch.setattr("apercu.deploy.video.overlay.draw_text", draw)
    frame = frame_of(np.full((360, 640, 3), 128, np.uint8), BT601)
    content = OverlayContent(map_, "day", 0.5, is_estimate)
    FrameOverlay(FrameFormat((640, 360), Fraction(1), BT601))(frame, content)
    assert numbers == ["~ 50%" if is_estimate else "50%"]


@pytest.mark.parametrize("size", [(2, 2), (16, 1600), (1600, 16), (58, 400)])
def test_a_picture_without_room_has_heat_but_no_label(size, map_) -> None:
    frame = frame_of(np.full((*size[::-1], 3), 128, np.uint8), BT601)
    drawn = FrameOverlay(FrameFormat(size, Fraction(1), BT601))(
        frame, OverlayContent(map_, "day", 1.0)
    )
    expected = HeatOverlay(map_, size, BT601).draw_over(frame)
    for number in range(3):
        np.testing.assert_array_equal(view_plane(drawn, number), view_plane(expected, number))


@pytest.mark.parametrize("size", [(60, 48), (200, 1600)])
def test_a_small_or_slim_picture_has_a_small_label(size) -> None:
    frame = frame_of(np.full((*size[::-1], 3), 128, np.uint8), BT601)
    before = view_plane(frame, 0).copy()
    label = Caption(size, BT601)
    label.draw_on(frame, "a name that is too long", 1.0)
    left, top, right, bottom = label.box
    changed = np.argwhere(view_plane(frame, 0) != before)
    assert changed.min(0).tolist() == [top, left]
    assert (changed.max(0) + 1).tolist() == [bottom, right]


def test_the_label_keeps_to_its_panel() -> None:
    size = (640, 360)
    frame = frame_of(np.full((360, 640, 3), 128, np.uint8), BT601)
    before = view_plane(frame, 0).copy()
    label = Caption(size, BT601)
    label.draw_on(frame, "a name that is far too long to be shown in a panel of this width", 0.5)
    left, top, right, bottom = label.box
    changed = np.argwhere(view_plane(frame, 0) != before)
    assert changed.min(0).tolist() == [top, left]
    assert (changed.max(0) + 1).tolist() == [bottom, right]


def test_the_name_is_large_enough() -> None:
    label = Caption((1280, 720), BT601)
    displayed = {}
    for title in ("tabby", "lynx"):
        frame = frame_of(np.zeros((720, 1280, 3), np.uint8), BT601)
        label.draw_on(frame, title, 0.5)
        displayed[title] = view_plane(frame, 0).copy()
    assert (displayed["tabby"] != displayed["lynx"]).any()
    left, top, right, _ = label.box
    words = displayed["tabby"][top : label.track[1], left:right]
    heights = np.flatnonzero((words > 200).any(1))
    assert heights[-1] - heights[0] > 20  # of 720 rows: can be read across a room
    assert (words > 200)[:, : label.gap - 2].sum() == 0


@pytest.mark.parametrize("matrix", [BT601, BT709, BT2020], ids=["601", "709", "2020"])
def test_colours_become_planes_as_ffmpeg_makes_them(matrix: ColourMatrix) -> None:
    colours = np.array(
        [ImageColor.getrgb(one) for one in (*render.HEAT_COLOURS, render.BOX_COLOUR)], np.uint8
    )
    expected = []
    for colour in colours:
        flat = frame_of(np.broadcast_to(colour, (16, 16, 3)), matrix)
        expected.append([int(view_plane(flat, number)[2, 2]) for number in range(3)])
    np.testing.assert_allclose(matrix.convert_to_planes(colours / 255.0), expected, atol=1.5)
