"""Open a video, and read upright frames and packets of sound as they come."""

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
"""Frames per second of a video that does not say."""
TIMEOUT = 10.0
"""Seconds within which an address must answer or continue."""
MICROSECOND = Fraction(1, 1_000_000)
LENGTH_TOLERANCE = 1
"""Seconds by which a video may be shorter than its container says."""
CAMERA_PREFIX, CAMERA_FORMAT = "/dev/video", "v4l2"
RTSP_PREFIXES = ("rtsp://", "rtsps://")
PICTURE_FORMAT, PICTURE_FORMAT_ENDING = "image2", "_pipe"
"""FFmpeg's name for containers of single pictures, and the ending of further such names."""
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
        frames: about the number of frames; 0 if the container does not say.
        frame_format: the size, pixel aspect and colours of the upright frames.
        damaged_packets: the number of packets so far that could not be decoded.
        early_end: why the video ended early; empty if it did not.
        untimely_frames: the number of frames so far whose time did not advance; they are left out.

    Raises:
        ImageError: it has no moving pictures.
    """

    def __init__(self, name: str, container: Any, live: bool) -> None:
        self.name, self.live = name, live
        self.damaged_packets = self.untimely_frames = 0
        self.early_end = ""
        self._container = container
        self.stream = _find_video_stream(name, container)
        self.stream.thread_type = "SLICE" if live else "AUTO"
        audio = container.streams.audio
        self.audio_streams = tuple(item for item in audio if item.codec_context is not None)
        self.unknown_audio = len(audio) - len(self.audio_streams)
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
        """About the number of frames per second."""
        return self.stream.average_rate or self.stream.guessed_rate or DEFAULT_RATE

    @property
    def time_base(self) -> Fraction:
        """The unit of the times of its frames, in seconds."""
        return self.stream.time_base or 1 / self.rate

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which can be read at any speed."""
        return Path(self.name.removeprefix("file:")).is_file()

    def read_items(self) -> Iterator[VideoItem]:
        """Yield all frames and packets of sound, once; the source must outlive the packets."""
        while self._head:
            yield self._head.pop(0)
        yield from self._items

    def _check_length(self) -> Iterator[VideoItem]:
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
        last = None
        for packet in self._read_packets():
            if packet.stream is not self.stream:
                if packet.dts is not None:
                    yield self._wrap_audio(packet)
                continue
            for frame in self._decode_frames(packet):
                if last is not None and frame.pts <= last:
                    self.untimely_frames += 1
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
        """Return the start of the video, in the units of a frame or packet."""
        if self._origin is None:
            self._origin = timed.pts * timed.time_base
        return round(self._origin / timed.time_base)


def _find_video_stream(name: str, container: Any) -> Any:
    """Return the first stream of moving pictures, which is not the cover of a song."""
    cover = av.stream.Disposition.attached_pic
    for stream in container.streams.video:
        if not stream.disposition & cover and stream.codec_context is not None:
            return stream
    raise ImageError(f"{name}: expected a video, found no stream of moving pictures")


def describe_error(error: Exception) -> str:
    """Return the reason of an FFmpeg error in a few words."""
    if isinstance(error, av.error.ExitError):
        return f"no answer within {TIMEOUT:g} seconds"
    return str(getattr(error, "strerror", None) or error)


def is_live(name: str) -> bool:
    """Return whether a source cannot wait, as it is a camera or an RTSP address."""
    return name.startswith((CAMERA_PREFIX, *RTSP_PREFIXES))


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
