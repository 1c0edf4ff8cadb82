"""Videos as they come from cameras and phones: turned, odd, deep, transparent, with gaps."""

from __future__ import annotations

import itertools
import re
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from apercu.deploy.video import open_video
from apercu.deploy.video.frames import prepare_image, view_plane
from apercu.deploy.video.source import AudioPacket, VideoPicture, VideoSource
from apercu.errors import ImageError

RED, BLUE, GREEN = (200, 30, 30), (30, 30, 200), (30, 160, 60)


def halves(left: tuple[int, ...], right: tuple[int, ...], size=(64, 48)) -> np.ndarray:
    """A picture of two colours, beside each other."""
    width, height = size
    picture = np.empty((height, width, len(left)), np.uint8)
    picture[:, : width // 2], picture[:, width // 2 :] = left, right
    return picture


def frames(path) -> list[VideoPicture]:
    return [item for item in open_video(str(path)).read_items() if isinstance(item, VideoPicture)]


def rgb(frame: VideoPicture) -> np.ndarray:
    return frame.picture.to_ndarray(format="rgb24").astype(int)


@pytest.mark.parametrize("rotation", [90, -90, 180])
def test_a_turned_video_is_upright(clip, rotation: int) -> None:
    path = clip([halves(RED, BLUE)] * 2, rotation=rotation)
    source = open_video(str(path))
    picture = rgb(next(source.read_items()))
    assert source.frame_format.size == ((64, 48) if rotation == 180 else (48, 64))
    expected = np.rot90(halves(RED, BLUE), {90: 1, -90: -1, 180: 2}[rotation])
    np.testing.assert_allclose(picture[::16, ::16], expected[::16, ::16], atol=8)


def test_the_turn_is_the_one_that_ffmpeg_makes(clip) -> None:
    """`transpose` by the negative angle of the display matrix, as ffmpeg's autorotation does."""
    path = clip([halves(RED, BLUE)] * 2, rotation=90)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        graph = av.filter.Graph()
        graph.link_nodes(
            graph.add_buffer(template=stream),
            graph.add("transpose", "cclock"),
            graph.add("buffersink"),
        ).configure()
        graph.push(next(container.decode(stream)))
        expected = graph.pull().to_ndarray(format="rgb24").astype(int)
    np.testing.assert_allclose(rgb(frames(path)[0]), expected, atol=3)


@pytest.mark.parametrize(
    "matrix",
    [
        *[(1, 0, 0, 1), (-1, 0, 0, 1), (1, 0, 0, -1), (-1, 0, 0, -1)],
        *[(0, 1, 1, 0), (0, -1, -1, 0), (0, 1, -1, 0), (0, -1, 1, 0)],
    ],
)
def test_every_turn_and_mirror_is_carried_out(clip, scene, matrix: tuple[int, ...]) -> None:
    """A place (x, y) comes to (ax + cy, bx + dy), as ISO 14496-12 says of the matrix a, b, c, d."""
    a, b, c, d = matrix
    picture = scene[:48, :64]
    path = clip([picture] * 2)
    ask_for(path, matrix)
    rows, columns = np.mgrid[:48, :64]
    x, y = a * columns + c * rows, b * columns + d * rows
    expected = np.empty_like(picture if a else picture.swapaxes(0, 1))
    expected[y - y.min(), x - x.min()] = picture
    assert abs(rgb(frames(path)[0]) - expected).mean() < 4


def ask_for(path: Path, matrix: tuple[int, ...]) -> None:
    """Writes another display matrix into an MP4 file."""
    before, (a, b, c, d) = path.read_bytes(), matrix
    one = 1 << 16
    same, other = (
        struct.pack(">9i", p * one, q * one, 0, r * one, s * one, 0, 0, 0, 1 << 30)
        for p, q, r, s in ((1, 0, 0, 1), (a, b, c, d))
    )
    index = before.index(same, before.index(b"tkhd"))
    path.write_bytes(before[:index] + other + before[index + len(other) :])


@pytest.mark.parametrize(("codec", "pixels"), [("libx264", "yuv444p"), ("ffv1", "bgr0")])
def test_odd_sides_become_even(clip, codec: str, pixels: str) -> None:
    path = clip([halves(RED, BLUE, (63, 47))] * 2, "in.mkv", codec=codec, pixels=pixels)
    frame = frames(path)[0]
    assert (frame.picture.width, frame.picture.height) == (64, 48)
    np.testing.assert_allclose(rgb(frame)[::12, [4, 60]], np.array([[RED, BLUE]] * 4), atol=8)


@pytest.mark.parametrize(
    ("codec", "pixels"),
    [
        ("libx264", "yuv420p"),
        ("libx264", "yuv420p10le"),
        ("libx264", "yuvj420p"),
        ("libx264", "yuv444p"),
        ("ffv1", "bgr0"),
        ("ffv1", "yuv422p10le"),
        ("mjpeg", "yuvj422p"),
    ],
)
def test_every_format_looks_the_same(clip, codec: str, pixels: str) -> None:
    picture = halves(GREEN, (230, 230, 230))
    frame = frames(clip([picture] * 2, "in.mkv", codec=codec, pixels=pixels))[0]
    assert frame.picture.format.name == "yuv420p"
    np.testing.assert_allclose(rgb(frame)[4::16, 4::16], picture[4::16, 4::16], atol=6)
    assert view_plane(frame.picture, 0).max() <= 235


def test_what_is_transparent_lies_over_white(clip) -> None:
    picture = halves((0, 0, 0, 0), (*GREEN, 255))
    frame = frames(clip([picture] * 2, "in.mov", codec="qtrle", pixels="argb"))[0]
    np.testing.assert_allclose(rgb(frame)[4, [4, 60]], [(255, 255, 255), GREEN], atol=6)


def test_the_times_of_a_variable_rate_count_from_the_start(clip) -> None:
    times = [50, 51, 55, 56, 80]
    path = clip([halves(RED, BLUE)] * 5, "in.ts", times=times)
    assert [round(one.seconds * 25) for one in frames(path)] == [0, 1, 5, 6, 30]


def test_sound_and_pictures_stay_together(clip) -> None:
    path = clip([halves(RED, BLUE)] * 25, "in.ts", sound="aac")
    with av.open(str(path)) as container:
        begins = [Fraction(s.start_time) * s.time_base for s in container.streams]
    items = list(open_video(str(path)).read_items())
    first = [
        next(i.seconds for i in items if isinstance(i, kind))
        for kind in (VideoPicture, AudioPacket)
    ]
    assert first[1] - first[0] == pytest.approx(float(begins[1] - begins[0]), abs=1e-3)
    assert min(first) == pytest.approx(0, abs=1e-3)


def test_a_stream_without_times_counts_its_frames(clip, tmp_path) -> None:
    assert len(frames(clip([halves(RED, BLUE)] * 5, "in.h264"))) == 5
    seconds = [one.seconds for one in frames(tmp_path / "in.h264")]
    np.testing.assert_allclose(np.diff(seconds), np.diff(seconds)[0])
    assert np.diff(seconds)[0] > 0


def test_an_explainer_sees_what_the_still_shows(clip, scene) -> None:
    """The frame's way into the network, against the way of a picture from a file."""
    import torch

    from apercu.classifiers import InputSpec
    from apercu.classifiers.preprocessing import fit_image

    still = scene[:180, :320]
    result = prepare_image(frames(clip([still] * 2, pixels="yuv444p"))[0].picture, (32, 24), 3)
    picture = torch.from_numpy(still / 255.0).permute(2, 0, 1).float()
    expected = fit_image(picture, InputSpec(size=(32, 24)), "squash")
    assert abs(result - expected.numpy()).mean() < 0.01
    assert result.min() >= 0
    assert result.max() <= 1


def test_grey_is_brightness(clip) -> None:
    result = prepare_image(frames(clip([halves(RED, (255, 255, 255))] * 2))[0].picture, (8, 8), 1)
    assert result.shape == (1, 8, 8)
    assert result[0, 4, 7] == pytest.approx(1.0, abs=0.01)
    assert result[0, 4, 0] == pytest.approx((0.299 * 200 + 0.701 * 30) / 255, abs=0.03)


def test_what_is_no_video_is_told(tmp_path) -> None:
    (tmp_path / "text.mp4").write_text("no video at all")
    (tmp_path / "empty.mp4").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    with av.open(str(tmp_path / "song.mp3"), "w") as container:
        stream = container.add_stream("mp3", rate=44_100)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 44_100), np.float32), "fltp", "mono")
        silence.sample_rate = 44_100
        container.mux(stream.encode(silence))
        container.mux(stream.encode(None))
    for name, words in {
        "none.mp4": "no such file, camera or address",
        "text.mp4": r"expected a video \(Invalid data",
        "empty.mp4": r"expected a video \(",
        "still.png": "got a picture; see apercu explain",
        "song.mp3": "found no stream of moving pictures",
    }.items():
        with pytest.raises(ImageError, match=words):
            open_video(str(tmp_path / name))


def test_a_dead_address_is_told() -> None:
    with pytest.raises(
        ImageError, match=r"tcp://127.0.0.1:1: expected a video \(Connection refused"
    ):
        open_video("tcp://127.0.0.1:1")


def test_a_video_cut_short_is_read_as_far_as_it_goes(clip, scene, tmp_path) -> None:
    pictures = [np.roll(scene[:96, :128], shift, 1) for shift in range(40)]
    whole = clip(pictures, "in.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    assert 5 < len(frames(tmp_path / "cut.mkv")) < 38


@pytest.mark.parametrize(("share", "says"), [(0.3, r"after [01]\.\d of 4\.0 seconds"), (1, "$")])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_video_cut_short_is_told(clip, scene, share: float, says: str, sound: str | None) -> None:
    pictures = [np.roll(scene[:96, :128], shift, 1) for shift in range(100)]
    path = clip(pictures, "in.mkv", sound=sound)
    whole = path.read_bytes()
    path.write_bytes(whole[: round(len(whole) * share)])
    source = open_video(str(path))
    assert (
        len([item for item in source.read_items() if isinstance(item, VideoPicture)])
        <= 100 * share + 25
    )
    assert re.match(says, source.early_end), source.early_end


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize("begins", [0, 75])
def test_a_long_last_frame_or_a_late_start_is_no_cut(clip, ending: str, begins: int) -> None:
    times = [begins, begins + 1, begins + 5]
    source = open_video(str(clip([halves(RED, BLUE)] * 3, f"in.{ending}", times=times, lasts=125)))
    assert sum(isinstance(item, VideoPicture) for item in source.read_items()) == 3
    assert source.early_end == ""


def test_a_file_may_be_named_by_its_address(clip) -> None:
    path = clip([halves(RED, BLUE)] * 2)
    assert open_video(str(path)).is_file
    assert open_video(f"file://{path}").is_file


class Breaking:
    """A container that stops answering after so many packets."""

    def __init__(self, container: object, packets: int) -> None:
        self.container, self.packets = container, packets

    def __getattr__(self, name: str) -> object:
        return getattr(self.container, name)

    def demux(self, *streams: object) -> Iterator[object]:
        packets = self.container.demux(*streams)
        yield from itertools.islice(packets, self.packets)
        raise av.error.ExitError(0, "Immediate exit requested")


def test_a_source_that_breaks_off_is_read_so_far_and_says_why(clip) -> None:
    path = clip([halves(RED, BLUE)] * 40)
    with av.open(str(path)) as container:
        source = VideoSource("camera", Breaking(container, 30), True)
        result = sum(isinstance(item, VideoPicture) for item in source.read_items())
    assert 20 < result <= 30
    assert source.early_end == "no answer within 10 seconds"
