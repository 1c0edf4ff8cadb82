"""Motion of the whole picture, against pictures that were moved by a known amount."""

from __future__ import annotations

import numpy as np
import pytest
from av import VideoFrame
from PIL import Image

from apercu.deploy.video.motion import (
    MOTION_SIDE,
    SCENE_CUT_CHANGE,
    estimate_motion,
    shift_values,
    shrink_to_grey,
)


@pytest.fixture(scope="module")
def world() -> np.ndarray:
    """A large grey picture with structure of several sizes, in [0, 1]."""
    generator = np.random.default_rng(1)
    layers = [
        Image.fromarray(generator.random((side, side), np.float32)).resize((320, 320))
        for side in (10, 40, 120)
    ]
    return np.mean([np.asarray(one) for one in layers], axis=0).astype(np.float32)


def cut_out(world: np.ndarray, down: int, right: int) -> np.ndarray:
    return world[60 + down : 60 + down + MOTION_SIDE, 60 + right : 60 + right + MOTION_SIDE]


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, -5), (-12, 8), (1, 0), (20, 20)])
def test_a_known_motion_is_found(world, down: int, right: int) -> None:
    result = estimate_motion(cut_out(world, 0, 0), cut_out(world, -down, -right))
    assert (result.down * MOTION_SIDE, result.right * MOTION_SIDE) == pytest.approx(
        (down, right), abs=0.3
    )
    assert result.change < 0.05  # what came in at the edge
    assert not result.is_scene_cut


def test_parts_of_a_pixel_are_found(world) -> None:
    large = Image.fromarray(world).resize((1280, 1280), Image.Resampling.BICUBIC)

    def reduced(right: int) -> np.ndarray:
        box = (240 + right, 240, 240 + right + 4 * MOTION_SIDE, 240 + 4 * MOTION_SIDE)
        return np.asarray(large.crop(box).reduce(4))

    result = estimate_motion(reduced(0), reduced(-6))
    assert result.right * MOTION_SIDE == pytest.approx(1.5, abs=0.3)
    assert result.down * MOTION_SIDE == pytest.approx(0, abs=0.2)


def test_another_scene_is_a_cut_and_a_flat_one_stands_still(world) -> None:
    assert (
        estimate_motion(cut_out(world, 0, 0), 1 - cut_out(world, 9, 30)).change
        > SCENE_CUT_CHANGE / 4
    )
    dark, light = (np.full((MOTION_SIDE, MOTION_SIDE), level, np.float32) for level in (0.2, 0.6))
    assert estimate_motion(dark, light).is_scene_cut
    still = estimate_motion(dark, dark)
    assert (still.down, still.right, still.change) == (0.0, 0.0, 0.0)


def test_noise_is_not_taken_for_motion() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.random((2, MOTION_SIDE, MOTION_SIDE), np.float32)
    result = estimate_motion(first, second)
    assert result.change <= abs(first - second).mean() + 1e-6


@pytest.mark.parametrize(("down", "right"), [(0.0, 0.0), (1.0, -2.0), (0.25, 3.5), (-40.0, 0.0)])
def test_values_move_as_written_out(down: float, right: float) -> None:
    values = np.random.default_rng(3).random((6, 5), np.float32)
    expected = np.empty_like(values)
    for row in range(6):
        for column in range(5):
            y, x = np.clip(row - down, 0, 5), np.clip(column - right, 0, 4)
            top, left = min(int(y), 4), min(int(x), 3)
            up, side = y - top, x - left
            corners = values[top : top + 2, left : left + 2]
            weights = np.outer((1 - up, up), (1 - side, side))
            expected[row, column] = (corners * weights).sum()
    np.testing.assert_allclose(shift_values(values, down, right), expected, atol=1e-6)


def test_the_brightness_of_a_picture_is_reduced_whole() -> None:
    pixels = np.zeros((96, 128, 3), np.uint8)
    pixels[:, 64:] = 255
    frame = VideoFrame.from_ndarray(pixels, "rgb24").reformat(format="yuv420p")
    grey = shrink_to_grey(frame)
    assert grey.shape == (MOTION_SIDE, MOTION_SIDE)
    assert grey[:, : MOTION_SIDE // 2 - 2].max() < 0.1
    assert grey[:, MOTION_SIDE // 2 + 2 :].min() > 0.9
