"""An opened video → upright frames and packets of sound, as they come."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeAlias, final

import av
from av import VideoFrame

from apercu.deploy.video.frames import FrameFormat, make_upright
from apercu.errors import ImageError

DEFAULT_RATE = Fraction(25)
"""Frames per second where nothing says."""
TIMEOUT = 10.0
"""Seconds for an address to answer, or to go on."""
MICROSECOND = Fraction(1, 1_000_000)
LENGTH_TOLERANCE = 1
"""Seconds by which a video may end before it says."""


@dataclass(frozen=True, eq=False)
class VideoPicture:
    """A picture of the video.

    Attributes:
        picture: upright, its time counts from the start.
        seconds: the same time.
    """

    picture: VideoFrame
    seconds: float


@dataclass(frozen=True, eq=False)
class AudioPacket:
    """A packet of sound as it was encoded, whose time counts from the start.

    Attributes:
        packet: of PyAV.
        seconds: the same time.
    """

    packet: Any
    seconds: float


VideoItem: TypeAlias = VideoPicture | AudioPacket


@final
class VideoSource:
    """An opened video.

    Args:
        name: as it was given.
        container: of PyAV.
        live: whether it does not wait.

    Attributes:
        stream: the first of moving pictures.
        sounds: all streams of sound whose codec is known.
        unknown: how many streams of sound are left out, because it is not.
        subtitles: how many streams of them there are.
        frames: how many, about; 0 where it does not say.
        look: of the upright frames.
        damaged: packets that could not be decoded, so far.
        broken: why it ended before its end; empty where it did not.
        standing: frames whose time did not advance, which are left out, so far.

    Raises:
        ImageError: it has no moving pictures.
    """

    def __init__(self, name: str, container: Any, live: bool) -> None:
        self.name, self.live = name, live
        self.damaged_packets = self.standing = 0
        self.early_end = ""
        self._container = container
        self.stream = _find_video_stream(name, container)
        self.stream.thread_type = "SLICE" if live else "AUTO"
        heard = container.streams.audio
        self.audio_streams = tuple(one for one in heard if one.codec_context is not None)
        self.unknown_audio = len(heard) - len(self.audio_streams)
        self.subtitle_streams = len(container.streams.subtitles)
        length = max(0, container.duration or 0) * MICROSECOND
        self._length, self._reached = length, 0.0
        self.frames = self.stream.frames or round(self.rate * length)
        start = container.start_time
        self._origin = None if start is None else start * MICROSECOND
        self._untimed = 0
        self._items = self._check_length()
        self._frame_format: FrameFormat | None = None
        self._head: list[VideoItem] = []
        for item in self._items:
            self._head.append(item)
            if isinstance(item, VideoPicture):
                break
        if self._frame_format is None:
            raise ImageError(f"{name}: expected a video, but not one frame of it can be decoded")
        self.frame_format: FrameFormat = self._frame_format

    @property
    def rate(self) -> Fraction:
        """Frames per second, about."""
        return self.stream.average_rate or self.stream.guessed_rate or DEFAULT_RATE

    @property
    def time_base(self) -> Fraction:
        """Seconds in which the times of its frames count."""
        return self.stream.time_base or 1 / self.rate

    @property
    def is_file(self) -> bool:
        """Whether it comes as fast as it is read."""
        return Path(self.name.removeprefix("file:")).is_file()

    def read_items(self) -> Iterator[VideoItem]:
        """All frames and sounds, once; packets need the source to be kept until they are used."""
        while self._head:
            yield self._head.pop(0)
        yield from self._items

    def _check_length(self) -> Iterator[VideoItem]:
        """The items; at the end, whether it came before the container says."""
        for item in self._decode_items():
            timed: Any = item.picture if isinstance(item, VideoPicture) else item.packet
            lasts = float((timed.duration or 0) * timed.time_base)
            self._reached = max(self._reached, item.seconds + lasts)
            yield item
        start = max(0, self._origin or 0)  # Matroska counts it in, others do not
        if not self.early_end and self._reached + start < self._length - LENGTH_TOLERANCE:
            self.early_end = f"after {self._reached:.1f} of {float(self._length):.1f} seconds"

    def _decode_items(self) -> Iterator[VideoItem]:
        last = None
        for packet in self._read_packets():
            if packet.stream is not self.stream:
                if packet.dts is not None:
                    yield self._wrap_audio(packet)
                continue
            for frame in self._decode_frames(packet):
                if last is not None and frame.pts <= last:
                    self.standing += 1
                    continue
                last = frame.pts
                yield VideoPicture(frame, float(frame.pts * frame.time_base))

    def _read_packets(self) -> Iterator[Any]:
        packets = self._container.demux(self.stream, *self.audio_streams)
        while True:
            try:
                packet = next(packets, None)
            except av.error.FFmpegError as error:
                self.early_end = describe_error(error)
                return
            if packet is None:
                return
            yield packet

    def _decode_frames(self, packet: Any) -> Iterator[Any]:
        try:
            decoded = packet.decode()
        except av.error.FFmpegError:
            self.damaged_packets += 1
            return
        for frame in decoded:
            if self._frame_format is None:
                self._frame_format = FrameFormat.from_frame(frame, self.stream.sample_aspect_ratio)
            if frame.pts is None:
                frame.pts, frame.time_base = self._untimed, 1 / self.rate
                frame.duration = 1
                self._untimed += 1
            picture: Any = make_upright(frame, self._frame_format)
            picture.pts -= self._find_start(picture)
            yield picture

    def _wrap_audio(self, packet: Any) -> AudioPacket:
        start = self._find_start(packet)
        packet.dts -= start
        if packet.pts is not None:
            packet.pts -= start
        return AudioPacket(packet, float(packet.dts * packet.time_base))

    def _find_start(self, timed: Any) -> int:
        """When the video starts, in the units of a frame or packet."""
        if self._origin is None:
            self._origin = timed.pts * timed.time_base
        return round(self._origin / timed.time_base)


def _find_video_stream(name: str, container: Any) -> Any:
    """The first stream of moving pictures; the cover of a song is none."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover and stream.codec_context is not None:
            return stream
    raise ImageError(f"{name}: expected a video, found no stream of moving pictures")


def describe_error(error: Exception) -> str:
    """What FFmpeg says, in a few words."""
    if isinstance(error, av.error.ExitError):
        return f"no answer within {TIMEOUT:g} seconds"
    return str(getattr(error, "strerror", None) or error)


CAMERA_PREFIX, CAMERA_FORMAT = "/dev/video", "v4l2"
RTSP_PREFIXES = ("rtsp://", "rtsps://")
PICTURE_FORMAT, PICTURE_FORMAT_ENDING = "image2", "_pipe"
"""How FFmpeg calls containers of single pictures, or how these names end."""
TEXT_FORMAT = "tty"
"""What FFmpeg would draw letter by letter."""


def is_live(name: str) -> bool:
    """Whether it can only be watched as it comes: a camera, or an RTSP address."""
    return name.startswith((CAMERA_PREFIX, *RTSP_PREFIXES))


def open_video(name: str, *, live: bool = False) -> VideoSource:
    """Opens a file, a camera (`/dev/video0`) or an address (RTSP, HTTP, TCP …).

    Raises:
        ImageError: it is missing, no video, or does not answer.
    """
    address = "://" in name
    if not address and not Path(name).exists():
        raise ImageError(f"{name}: no such file, camera or address")
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
