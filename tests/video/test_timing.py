"""Times that stand still, go back or are missing, and sound that a container does not take."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest

from apercu.deploy.video import VideoSettings, VideoSource, open_video, write_video
from apercu.deploy.video.audio import AudioTrack
from apercu.deploy.video.source import AudioPacket, VideoPicture
from apercu.deploy.video.timing import PacketClock, Timeline

GREY = [np.full((48, 64, 3), value, np.uint8) for value in range(60, 210, 10)]


def write_clip(
    path: Path,
    times: list[int],
    *,
    sounds: tuple[str, ...] = (),
    languages: tuple[str, ...] = (),
    layout: str = "mono",
    rate: int = 48_000,
    codec: str = "libx264",
    lasts: int = 1,
) -> Path:
    """Write grey frames at these times in steps of 1/25 s, in B-frames too, with sound."""
    with av.open(str(path), "w") as container:
        options = {"bf": "2"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.codec_context.time_base = 64, 48, Fraction(1, 25)
        tracks = [container.add_stream(sound, rate=rate) for sound in sounds]
        for track, language in zip(tracks, languages, strict=False):
            track.metadata["language"] = language
        for track in tracks:
            track.codec_context.layout = layout
        for index, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(GREY[index % len(GREY)], "rgb24")
            frame = frame.reformat(format="yuv420p")
            frame.pts, frame.time_base = time, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        for track in tracks:
            count = round(rate * (times[-1] + lasts) / 25)
            wave = 0.3 * np.sin(np.arange(count) / 20).astype(np.float32)
            channels = track.codec_context.layout.nb_channels
            frame = av.AudioFrame.from_ndarray(np.tile(wave, (channels, 1)), "fltp", layout)
            frame.sample_rate, frame.pts = rate, 0
            container.mux(track.encode(frame))
            container.mux(track.encode(None))
    return path


def explain(engine, source: Path | VideoSource, out: Path):
    opened = source if isinstance(source, VideoSource) else open_video(str(source))
    return write_video(engine, opened, out, VideoSettings())


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("source", ["mp4", "mkv"])
def test_a_film_of_variable_rate_keeps_its_length(
    engine, player, tmp_path, ending: str, source: str
) -> None:
    """With B-frames the last frame that is decoded is not the last one that is shown."""
    times = [0, 3, 5, 35, 38]
    path = write_clip(tmp_path / f"in.{source}", times)
    out = tmp_path / f"out.{ending}"
    explain(engine, path, out)
    assert player.times(out) == pytest.approx([time / 25 for time in times], abs=2e-3)
    assert player.length(out) == pytest.approx(39 / 25, abs=0.03)


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
def test_sound_keeps_its_language(engine, tmp_path, ending: str) -> None:
    path = write_clip(
        tmp_path / "in.mkv", list(range(15)), sounds=("aac", "aac"), languages=("eng", "deu")
    )
    summary = explain(engine, path, tmp_path / f"out.{ending}")
    with av.open(str(tmp_path / f"out.{ending}")) as container:
        german = "ger" if ending == "mov" else "deu"  # QuickTime has a list of its own
        assert [stream.language for stream in container.streams.audio] == ["eng", german]
    assert len(summary.audio) == 2


@pytest.mark.parametrize(
    ("sound", "rate", "layout", "ending", "words"),
    [
        ("libopus", 48_000, "stereo", "mov", "opus encoded as aac"),
        ("libopus", 48_000, "stereo", "mp4", "opus copied"),
        ("flac", 48_000, "stereo", "mov", "flac encoded as aac"),
        ("flac", 192_000, "stereo", "mov", "flac encoded as aac"),
        ("flac", 44_056, "mono", "webm", "flac encoded as opus"),
        ("aac", 44_100, "5.1", "webm", "aac encoded as opus"),
        ("flac", 48_000, "5.1(side)", "webm", "flac encoded as opus"),
        ("pcm_s16le", 8_000, "mono", "webm", "pcm_s16le encoded as opus"),
    ],
)
def test_sound_of_any_codec_is_there(
    engine, player, tmp_path, sound: str, rate: int, layout: str, ending: str, words: str
) -> None:
    path = write_clip(
        tmp_path / "in.mkv", list(range(15)), sounds=(sound,), rate=rate, layout=layout
    )
    out = tmp_path / f"out.{ending}"
    summary = explain(engine, path, out)
    assert (summary.audio, summary.damaged_audio, summary.warnings) == ((words,), 0, ())
    with av.open(str(out)) as container:
        heard = sum(frame.samples / frame.sample_rate for frame in container.decode(audio=0))
    assert heard == pytest.approx(0.6, abs=0.1)


class Edited:
    """A container whose packets are changed as they are read.

    Args:
        container: the opened container.
        edit: is called with the number of the packet in its stream, and the packet.
    """

    def __init__(self, container, edit) -> None:
        self.container, self.edit = container, edit

    def __getattr__(self, name: str):
        return getattr(self.container, name)

    def demux(self, *streams):
        counts = dict.fromkeys((stream.index for stream in streams), 0)
        for packet in self.container.demux(*streams):
            if packet.size:
                self.edit(counts[packet.stream.index], packet)
                counts[packet.stream.index] += 1
            yield packet


@pytest.mark.parametrize("ending", ["mp4", "mov", "mkv", "webm"])
def test_a_sound_time_that_comes_twice_is_moved_on(engine, player, tmp_path, ending: str) -> None:
    path = write_clip(tmp_path / "in.mkv", list(range(25)), sounds=("aac",))

    def repeat(number: int, packet) -> None:
        if packet.stream.type == "audio" and number == 7:
            packet.pts = packet.dts = packet.dts - packet.duration

    with av.open(str(path)) as container:
        source = VideoSource("film", Edited(container, repeat), live=False)
        summary = explain(engine, source, tmp_path / f"out.{ending}")
    assert summary.frames == 25
    assert player.length(tmp_path / f"out.{ending}") == pytest.approx(1.0, abs=0.05)
    assert len(player.sounds(tmp_path / f"out.{ending}")[1]) > 40
    assert summary.warnings == ("film: 1 packet(s) of sound moved on whose time did not advance",)


@pytest.mark.parametrize("missing", ["pts", "dts", "both"])
def test_times_that_are_missing_follow_the_ones_before(
    engine, player, tmp_path, missing: str
) -> None:
    path = write_clip(tmp_path / "in.mkv", list(range(25)), sounds=("aac",), codec="mpeg4")

    def remove(number: int, packet) -> None:
        if number % 3 == 1:
            packet.pts = None if missing in ("pts", "both") else packet.pts
            packet.dts = None if missing in ("dts", "both") else packet.dts

    with av.open(str(path)) as container:
        source = VideoSource("film", Edited(container, remove), live=False)
        summary = explain(engine, source, tmp_path / "out.mp4")
    assert summary.frames == 25
    times = player.times(tmp_path / "out.mp4")
    assert np.diff(times) == pytest.approx(np.full(24, 0.04), abs=2e-3)
    assert len(player.sounds(tmp_path / "out.mp4")[1]) > 40


def test_recordings_that_were_joined_follow_one_another(engine, player, tmp_path) -> None:
    path = write_clip(tmp_path / "in.ts", list(range(25)), sounds=("aac",))
    path.write_bytes(path.read_bytes() * 2)
    summary = explain(engine, path, tmp_path / "out.mp4")
    assert summary.frames >= 48
    assert player.length(tmp_path / "out.mp4") == pytest.approx(2.0, abs=0.1)
    assert any("the time began again" in line for line in summary.warnings)


def test_a_packet_that_cannot_be_read_does_not_end_the_film(engine, tmp_path) -> None:
    path = write_clip(tmp_path / "in.mkv", list(range(25)))

    class Damaged:
        def __init__(self, container) -> None:
            self.container, self.failed = container, False

        def __getattr__(self, name: str):
            return getattr(self.container, name)

        def demux(self, *streams):
            for number, packet in enumerate(self.container.demux(*streams)):
                yield packet
                if number == 10 and not self.failed:
                    self.failed = True
                    raise av.error.InvalidDataError(1094995529, "Invalid data")

    with av.open(str(path)) as container:
        source = VideoSource("film", Damaged(container), live=False)
        summary = explain(engine, source, tmp_path / "out.mp4")
    assert summary.frames == 25
    assert summary.warnings == ("film: 1 packet(s) could not be decoded",)


def test_a_cover_or_a_second_film_is_left_out(engine, tmp_path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        streams = [container.add_stream("mjpeg", rate=25) for _ in range(2)]
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(5):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(GREY[number], "rgb24")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                container.mux(stream.encode(frame))
    summary = explain(engine, tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert summary.frames == 5
    assert summary.warnings == (
        f"{tmp_path / 'in.mkv'}: 1 further stream(s) of moving pictures left out",
    )


def test_hdr_is_told(engine, tmp_path) -> None:
    with av.open(str(tmp_path / "in.mkv"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc, stream.codec_context.color_primaries = 16, 9
        for number in range(3):
            frame = av.VideoFrame.from_ndarray(GREY[number], "rgb24").reformat(format="yuv420p10le")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    summary = explain(engine, tmp_path / "in.mkv", tmp_path / "out.mp4")
    assert summary.frames == 3
    assert [line.partition(": ")[2] for line in summary.warnings] == [
        "HDR colours, explained and shown as they are stored"
    ]


def test_a_timeline_joins_and_fills() -> None:
    timeline = Timeline(Fraction(1, 25))
    times = [0, None, 2, 125, 1, 2, 2]
    given = [None if time is None else Fraction(time, 25) for time in times]
    placed = [timeline.place(time, Fraction(0)) * 25 for time in given]
    assert placed == [0, 1, 2, 125, 126, 127, 127]
    assert (timeline.restarts, timeline.untimely) == (1, 1)
    leaping = Timeline(Fraction(1, 25), may_leap=True)
    assert [leaping.place(Fraction(time), Fraction(0)) * 25 for time in (0, 5000, 5001)] == [
        *(0, 1, 26),
    ]


def test_packets_never_come_twice_in_the_unit_of_the_file() -> None:
    clock = PacketClock(SimpleNamespace(time_base=Fraction(1, 1000)))
    packets = []
    for time in (0, 10, 20, 30, 200):  # in steps of 1/48000, less than a thousandth
        packet = SimpleNamespace(time_base=Fraction(1, 48_000), dts=time, pts=None, duration=10)
        clock.adjust(packet)
        packets.append((packet.dts, packet.pts))
    assert packets == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4)]


def test_sound_may_change_its_format_while_it_plays(tmp_path) -> None:
    path = write_clip(tmp_path / "in.mkv", list(range(15)), sounds=("flac",), layout="stereo")
    other = write_clip(tmp_path / "b.mkv", list(range(15)), sounds=("flac",), layout="mono")
    sink = av.open(io.BytesIO(), "w", format="webm")
    with av.open(str(path)) as first, av.open(str(other)) as second:
        track = AudioTrack(first.streams.audio[0], sink, "opus")
        for container in (first, second):
            for frame in container.decode(audio=0):
                converted = track._convert_frame(frame)
                assert {part.layout.name for part in converted} <= {"stereo"}
                list(track._encode_frames(converted))
    assert track.damaged_packets == 0


def test_frames_wait_for_the_next_only_where_the_film_can_wait(tmp_path) -> None:
    path = write_clip(tmp_path / "in.mkv", [0, 1, 5], sounds=("aac",))
    items = list(open_video(str(path)).read_items())
    pictures = [item.picture for item in items if isinstance(item, VideoPicture)]
    lasts = [round(float(one.duration * one.time_base) * 25) for one in pictures]
    assert lasts == [1, 4, 1]
    assert any(isinstance(item, AudioPacket) for item in items)
