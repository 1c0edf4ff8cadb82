"""Write a video file with its sound, in the format of its ending."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, final

import av
from av import VideoFrame
from av.codec.context import Flags

from apercu.deploy.video.audio import AudioTrack
from apercu.deploy.video.frames import PIXEL_FORMAT, VIDEO_RANGE
from apercu.deploy.video.source import VideoSource
from apercu.deploy.video.timing import PacketClock
from apercu.errors import ConfigError, OutputError, suggest_nearest
from apercu.io import check_writable


@dataclass(frozen=True)
class OutputFormat:
    """A kind of video file.

    Attributes:
        container: FFmpeg's name of the container.
        encoder: FFmpeg's name of the encoder of the pictures.
        options: the options of the encoder.
        live: further options of the encoder for a live source.
        audio: FFmpeg's name of the codec for sound that cannot be copied.
    """

    container: str
    encoder: str
    options: tuple[tuple[str, str], ...]
    live: tuple[tuple[str, str], ...]
    audio: str = "aac"


# Without B-frames the frames are decoded in the order in which they are shown. Otherwise the last
# packet would not be that of the last frame, and no packet could say how long that one is shown.
_H264 = (
    "libx264",
    (("preset", "veryfast"), ("crf", "21"), ("bf", "0")),
    (("tune", "zerolatency"),),
)
_VP9 = (
    "libvpx-vp9",
    (("deadline", "realtime"), ("cpu-used", "8"), ("row-mt", "1"), ("crf", "32"), ("b", "0")),
    (("lag-in-frames", "0"),),
)
FORMATS = {
    ".mp4": OutputFormat("mp4", *_H264),
    ".mov": OutputFormat("mov", *_H264),
    ".mkv": OutputFormat("matroska", *_H264),
    ".webm": OutputFormat("webm", *_VP9, audio="opus"),
}


def find_format(out: Path) -> OutputFormat:
    """Return the format of a new file by the ending of its name.

    Raises:
        OutputError: the ending is unknown, or the file exists.
        ConfigError: this PyAV cannot encode for it.
    """
    output_format = FORMATS.get(out.suffix.lower())
    if output_format is None:
        *others, last = FORMATS
        raise OutputError(
            f"{out}: expected a name that ends in {', '.join(others)} or {last}"
            f"{suggest_nearest(out.suffix, FORMATS) if out.suffix else ''}"
        )
    if out.exists():
        raise OutputError(f"{out}: exists already; remove it, or choose another name")
    if output_format.encoder not in av.codecs_available:
        raise ConfigError(
            f"video: this PyAV was built without {output_format.encoder}; "
            "pip install 'apercu[video]' brings one that has it"
        )
    return output_format


MAX_UNWRITTEN = 100
"""Number of packets that a container may refuse, before the file is given up."""


@final
class VideoWriter:
    """A video file that is written; the end of `with` finishes it, and gives it its name.

    What was written before Ctrl-C is kept and plays; without a frame, or after an error, nothing is
    kept.

    Args:
        out: the path of the file.
        format: the format of the file.
        source: the video whose frames and sound are written.

    Attributes:
        tracks: the tracks of sound, by the index of their stream.
        unwritten: the number of packets so far that the container refused.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, out: Path, format: OutputFormat, source: VideoSource) -> None:
        check_writable(out.parent)
        out.parent.mkdir(parents=True, exist_ok=True)
        self.out = out
        self._part = out.with_name(f".{out.name}.{os.getpid()}.part")
        self.unwritten = 0
        self._begun = False
        self._container: Any = None
        try:
            self._container = av.open(str(self._part), "w", format=format.container)
            self._video = self._add_stream(format, source)
            self.tracks = {
                stream.index: AudioTrack(stream, self._container, format.audio)
                for stream in source.audio_streams
            }
            self._container.start_encoding()
        except (av.error.FFmpegError, ValueError) as error:
            self._discard()
            raise self._describe_error(error) from error
        streams = (self._video, *(track.stream for track in self.tracks.values()))
        self._clocks = {stream.index: PacketClock(stream) for stream in streams}

    def write_frame(self, picture: VideoFrame) -> None:
        """Encode a picture and write its packets."""
        self._begun = True
        self._write(self._video.encode(picture))

    def write_audio(self, packet: Any) -> None:
        """Copy a packet of sound, or encode it again."""
        self._write(self.tracks[packet.stream.index].convert_packet(packet))

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._begun and kind in (None, KeyboardInterrupt):
                self._finish()
        finally:
            self._discard()

    def _finish(self) -> None:
        self._write(self._video.encode(None))
        for track in self.tracks.values():
            self._write(track.flush())
        try:
            self._container.close()
            self._part.replace(self.out)
        except OSError as error:
            raise self._describe_error(error) from error

    def _discard(self) -> None:
        """Close the file, and remove it unless it has got its name."""
        if self._container is not None:
            with contextlib.suppress(av.error.FFmpegError):
                self._container.close()
        with contextlib.suppress(OSError):
            self._part.unlink()

    def _write(self, packets: Iterable[Any]) -> None:
        """Write packets; one that the container refuses is left out and counted."""
        try:
            for packet in packets:
                self._clocks[packet.stream_index].adjust(packet)
                try:
                    self._container.mux_one(packet)
                except (av.error.ArgumentError, av.error.InvalidDataError):
                    self.unwritten += 1
                    if self.unwritten > MAX_UNWRITTEN:
                        raise
        except av.error.FFmpegError as error:
            raise self._describe_error(error) from error

    def _add_stream(self, format: OutputFormat, source: VideoSource) -> Any:
        options = dict(format.options + (format.live if source.live else ()))
        stream: Any = self._container.add_stream(format.encoder, rate=source.rate, options=options)
        coding, read = stream.codec_context, source.stream.codec_context
        coding.width, coding.height = source.frame_format.size
        coding.pix_fmt, coding.color_range = PIXEL_FORMAT, VIDEO_RANGE
        coding.time_base = source.time_base
        coding.flags |= Flags.frame_duration
        coding.sample_aspect_ratio = source.frame_format.pixel_aspect
        coding.colorspace = source.frame_format.matrix.h273_id
        coding.color_primaries, coding.color_trc = read.color_primaries, read.color_trc
        return stream

    def _describe_error(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(f"{self.out}: cannot be written ({reason})")
