"""Open a video, and read upright frames and packets of sound as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, final

import av
from av import VideoFrame

from apercu.deploy.video.frames import HDR_TRANSFERS, FrameFormat, make_upright
from apercu.deploy.video.timing import Timeline
from apercu.errors import ImageError

DEFAULT_RATE = Fraction(25)
"""Frames per second of a video that does not say."""
TIMEOUT = 10.0
"""Seconds within which an address must answer or continue."""
MICROSECOND = Fraction(1, 1_000_000)
MAX_FAILURES = 100
"""Number of packets in a row that cannot be read, after which the video ends."""
DECODING_DURATIONS = "mov"
"""Beginning of FFmpeg's name for containers whose durations follow the order of decoding."""
LENGTH_TOLERANCE = 1
"""Seconds by which a video may be shorter than its container says."""
CAMERA_PREFIX, CAMERA_FORMAT = "/dev/video", "v4l2"
RTSP_PREFIXES = ("rtsp://", "rtsps://")
PICTURE_FORMAT, PICTURE_FORMAT_ENDING = "image2", "_pipe"
"""FFmpeg's name for containers of single pictures, and the ending of further such names."""
TS_DISCONTINUITIES = 0x0200
"""FFmpeg's flag for formats whose times may leap."""
TEXT_FORMAT = "tty"
"""FFmpeg's name for text, which it would draw letter by letter."""


@dataclass(frozen=True, eq=False)
class VideoPicture:
    """A picture of the video.

    Attributes:
        picture: the upright picture, whose time counts from the start.
        seconds: the same time in seconds.
    """

    picture: VideoFrame
    seconds: float


@dataclass(frozen=True, eq=False)
class AudioPacket:
    """A packet of sound as it was encoded, whose time counts from the start.

    Attributes:
        packet: the packet of PyAV.
        seconds: the same time in seconds.
    """

    packet: Any
    seconds: float


VideoItem: TypeAlias = VideoPicture | AudioPacket


@final
class VideoSource:
    """An opened video, whose frames and sound are read once.

    Args:
        name: the file, camera or address as the caller named it.
        container: the opened container of PyAV.
        live: whether frames are dropped rather than delayed.

    Attributes:
        stream: the first stream of moving pictures.
        audio_streams: all streams of sound with a known codec.
        unknown_audio: the number of streams of sound that are left out, as their codec is unknown.
        subtitle_streams: the number of streams of subtitles.
        other_pictures: the number of further streams of moving pictures, which are left out.
        frames: about the number of frames; 0 if the container does not say.
        frame_format: the size, pixel aspect and colours of the upright frames.
        damaged_packets: the number of packets so far that could not be read or decoded.
        resized_frames: the number of frames so far that were stored in another size than the first.
        early_end: why the video ended early; empty if it did not.

    Raises:
        ImageError: it has no moving pictures.
    """

    def __init__(self, name: str, container: Any, live: bool) -> None:
        self.name, self.live = name, live
        self.damaged_packets = self.resized_frames = 0
        self.early_end = ""
        self._container = container
        self.stream = _find_video_stream(name, container)
        self.stream.thread_type = "SLICE" if live else "AUTO"
        audio = container.streams.audio
        self.audio_streams = tuple(item for item in audio if item.codec_context is not None)
        self.unknown_audio = len(audio) - len(self.audio_streams)
        self.subtitle_streams = len(container.streams.subtitles)
        self.other_pictures = sum(map(_has_moving_pictures, container.streams.video)) - 1
        length = max(0, container.duration or 0) * MICROSECOND
        self._length, self._reached = length, 0.0
        self.frames = self.stream.frames or round(self.rate * length)
        start = container.start_time
        self._origin = None if start is None else start * MICROSECOND
        may_leap = bool(container.format.flags & TS_DISCONTINUITIES)
        self._timeline = Timeline(1 / Fraction(self.rate), may_leap)
        self._audio_timelines = {
            stream.index: Timeline(_find_step(stream), may_leap) for stream in self.audio_streams
        }
        self._last_duration = Fraction(0)
        self._stored_size = (0, 0)
        self._items = self._note_early_end()
        self._frame_format: FrameFormat | None = None
        self._head = self._read_until_first_frame()
        if self._frame_format is None:
            raise ImageError(f"{name}: expected a video, but not one frame of it can be decoded")
        self.frame_format: FrameFormat = self._frame_format

    @property
    def rate(self) -> Fraction:
        """About the number of frames per second."""
        return self.stream.average_rate or self.stream.guessed_rate or DEFAULT_RATE

    @property
    def time_base(self) -> Fraction:
        """The unit of the times of its frames, in seconds."""
        return self.stream.time_base or 1 / self.rate

    @property
    def has_high_dynamic_range(self) -> bool:
        """Whether the frames have colours of HDR (perceptual quantiser, or HLG)."""
        return int(self.stream.codec_context.color_trc) in HDR_TRANSFERS

    @property
    def untimely_frames(self) -> int:
        """The number of frames so far whose time did not advance; they are left out."""
        return self._timeline.untimely

    @property
    def untimely_audio(self) -> int:
        """The number of packets of sound so far whose time did not advance; they are moved on."""
        return sum(timeline.untimely for timeline in self._audio_timelines.values())

    @property
    def restarts(self) -> int:
        """How often the times of the frames began again; what follows was put after it."""
        return self._timeline.restarts

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which can be read at any speed."""
        return Path(self.name.removeprefix("file:")).is_file()

    def _read_until_first_frame(self) -> list[VideoItem]:
        """Return the items up to the first frame, which says what all frames have in common."""
        items: list[VideoItem] = []
        for item in self._items:
            items.append(item)
            if isinstance(item, VideoPicture):
                break
        return items

    def read_items(self) -> Iterator[VideoItem]:
        """Yield all frames and packets of sound, once; the source must outlive the packets."""
        while self._head:
            yield self._head.pop(0)
        yield from self._items

    def _note_early_end(self) -> Iterator[VideoItem]:
        """Yield the items, and note at the end if the container promised more."""
        for item in self._decode_items():
            timed: Any = item.picture if isinstance(item, VideoPicture) else item.packet
            duration = float((timed.duration or 0) * timed.time_base)
            self._reached = max(self._reached, item.seconds + duration)
            yield item
        start = max(0, self._origin or 0)  # only Matroska includes it
        if not self.early_end and self._reached + start < self._length - LENGTH_TOLERANCE:
            self.early_end = f"after {self._reached:.1f} of {float(self._length):.1f} seconds"

    def _decode_items(self) -> Iterator[VideoItem]:
        """Yield frames and sound; a frame waits for the next one, which says how long it lasts."""
        waiting: Any = None
        for packet in self._read_packets():
            if packet.stream is not self.stream:
                if packet.size:
                    yield self._wrap_audio(packet)
                continue
            if packet.size:
                self._last_duration = Fraction(packet.duration or 0) * packet.time_base
            for picture in self._decode_frames(packet):
                if self.live:
                    yield _wrap_picture(picture)
                    continue
                if waiting is not None:
                    lasts = picture.pts * picture.time_base - waiting.pts * waiting.time_base
                    waiting.duration = round(lasts / waiting.time_base)
                    yield _wrap_picture(waiting)
                waiting = picture
        if waiting is not None:
            waiting.duration = self._find_last_duration(waiting)
            yield _wrap_picture(waiting)

    def _find_last_duration(self, picture: Any) -> int:
        """Return how long the last frame is shown, in the unit of its times."""
        lasts = Fraction(picture.duration or 0) * picture.time_base
        if self._container.format.name.startswith(DECODING_DURATIONS) and self._last_duration:
            # of the others, it says how long it is until the next one is decoded
            lasts = min(lasts or self._last_duration, self._last_duration)
        units: Fraction = (lasts or 1 / Fraction(self.rate)) / picture.time_base
        return max(1, round(units))

    def _read_packets(self) -> Iterator[Any]:
        """Yield the packets; damaged ones are left out and counted."""
        packets, failures, reason = self._demux(), 0, ""
        while True:
            try:
                packet = next(packets, None)
            except av.error.InvalidDataError as error:  # the next packet may be a good one
                failures, reason = failures + 1, describe_error(error)
                if failures > MAX_FAILURES:
                    self.early_end = reason
                    return
                packets = self._demux()
                continue
            except av.error.FFmpegError as error:
                self.early_end = describe_error(error)
                return
            if packet is None:
                self.early_end = reason
                return
            if packet.size and failures:
                self.damaged_packets += failures
                failures, reason = 0, ""
            yield packet

    def _demux(self) -> Iterator[Any]:
        packets: Iterator[Any] = self._container.demux(self.stream, *self.audio_streams)
        return packets

    def _decode_frames(self, packet: Any) -> Iterator[Any]:
        """Yield the upright pictures of a packet at their times, which advance."""
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            self.damaged_packets += 1
            return
        for frame in decoded:
            if not self._place_frame(frame):
                continue
            if self._frame_format is None:
                self._frame_format = FrameFormat.from_frame(frame, self.stream.sample_aspect_ratio)
                self._stored_size = (frame.width, frame.height)
            if (frame.width, frame.height) != self._stored_size:
                self.resized_frames += 1
            try:
                yield make_upright(frame, self._frame_format)
            except (av.error.FFmpegError, ValueError):  # pixels that cannot be converted
                self.damaged_packets += 1

    def _place_frame(self, frame: Any) -> bool:
        """Let the time of a frame count from the start; return whether it advances."""
        frame.time_base = unit = frame.time_base or 1 / Fraction(self.rate)
        untimely = self._timeline.untimely
        time = None if frame.pts is None else frame.pts * unit - self._find_origin(frame)
        placed = self._timeline.place(time, Fraction(frame.duration or 0) * unit)
        frame.pts = round(placed / unit)
        return self._timeline.untimely == untimely

    def _wrap_audio(self, packet: Any) -> AudioPacket:
        """Let the times of a packet of sound count from the start."""
        unit = packet.time_base
        if packet.dts is None:
            packet.dts = packet.pts
        time = None if packet.dts is None else packet.dts * unit - self._find_origin(packet)
        timeline = self._audio_timelines[packet.stream.index]
        placed = timeline.place(time, Fraction(packet.duration or 0) * unit)
        decoded = round(placed / unit)
        if packet.pts is not None and packet.dts is not None:
            packet.pts += decoded - packet.dts
        packet.dts = decoded
        return AudioPacket(packet, float(placed))

    def _find_origin(self, timed: Any) -> Fraction:
        """Return the time in the file at which the video starts, in seconds."""
        if self._origin is None:
            start = timed.dts if timed.pts is None else timed.pts
            self._origin = start * timed.time_base
        return self._origin


def _find_step(audio: Any) -> Fraction:
    """Return how long a packet of sound usually lasts, in seconds; 0 if that is unknown."""
    coding = audio.codec_context
    return Fraction(coding.frame_size or 0, coding.sample_rate or 1)


def _wrap_picture(picture: Any) -> VideoPicture:
    return VideoPicture(picture, float(picture.pts * picture.time_base))


def _find_video_stream(name: str, container: Any) -> Any:
    """Return the first stream of moving pictures, which is not the cover of a song."""
    for stream in container.streams.video:
        if _has_moving_pictures(stream):
            return stream
    raise ImageError(f"{name}: expected a video, found no stream of moving pictures")


def _has_moving_pictures(stream: Any) -> bool:
    """Return whether a stream can be decoded, and is not the cover of a song."""
    cover = stream.disposition & av.stream.Disposition.attached_pic
    return not cover and stream.codec_context is not None


def describe_error(error: Exception) -> str:
    """Return the reason of an FFmpeg error in a few words."""
    if isinstance(error, av.error.ExitError):
        return f"no answer within {TIMEOUT:g} seconds"
    return str(getattr(error, "strerror", None) or error)


def is_live(name: str) -> bool:
    """Return whether a source cannot wait, as it is a camera or an RTSP address."""
    return name.startswith((CAMERA_PREFIX, *RTSP_PREFIXES))


def check_video(name: str) -> None:
    """Raise ImageError if a file or a camera is missing, before something is loaded for it."""
    if "://" not in name and not Path(name).exists():
        raise ImageError(f"{name}: no such file, camera or address")


def open_video(name: str, *, live: bool = False) -> VideoSource:
    """Open a file, a camera (`/dev/video0`) or an address (RTSP, HTTP, TCP …).

    Args:
        name: the file, camera or address.
        live: whether frames are dropped rather than delayed; cameras and RTSP always are live.

    Returns:
        The opened video.

    Raises:
        ImageError: the source is missing, not a video, or does not answer.
    """
    address = "://" in name
    check_video(name)
    try:
        container = av.open(
            name,
            format=CAMERA_FORMAT if name.startswith(CAMERA_PREFIX) else None,
            options={"rtsp_transport": "tcp"} if name.startswith(RTSP_PREFIXES) else {},
            timeout=TIMEOUT if address else None,
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise ImageError(f"{name}: expected a video ({describe_error(error)})") from error
    kind = container.format.name
    if kind == TEXT_FORMAT:
        raise ImageError(f"{name}: expected a video, got text")
    if kind == PICTURE_FORMAT or kind.endswith(PICTURE_FORMAT_ENDING):
        raise ImageError(f"{name}: expected a video, got a picture; see apercu explain")
    return VideoSource(name, container, live or is_live(name))
