"""Write a video file with its sound, in the format that its name asks for."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, final

import av
from av import VideoFrame
from av.codec.context import Flags

from apercu.deploy.video.frames import PIXEL_FORMAT, VIDEO_RANGE
from apercu.deploy.video.source import VideoSource
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
    """

    container: str
    encoder: str
    options: tuple[tuple[str, str], ...]
    live: tuple[tuple[str, str], ...]


_H264 = ("libx264", (("preset", "veryfast"), ("crf", "21")), (("tune", "zerolatency"),))
_VP9 = (
    "libvpx-vp9",
    (("deadline", "realtime"), ("cpu-used", "8"), ("row-mt", "1"), ("crf", "32"), ("b", "0")),
    (("lag-in-frames", "0"),),
)
FORMATS = {
    ".mp4": OutputFormat("mp4", *_H264),
    ".mov": OutputFormat("mov", *_H264),
    ".mkv": OutputFormat("matroska", *_H264),
    ".webm": OutputFormat("webm", *_VP9),
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


OPUS_RATE = 48_000
"""Samples per second of Opus, which has no other rate."""


@final
class AudioTrack:
    """A stream of sound that is copied, or encoded again where the container cannot hold its codec.

    Args:
        source: the stream that is read.
        container: the container that is written.

    Attributes:
        copied: whether the sound stays as it was encoded.
        codec: the codec that is written.
        damaged_packets: the number of packets so far that could not be decoded.
    """

    def __init__(self, source: Any, container: Any) -> None:
        codec = source.codec_context.codec.canonical_name
        self._read = codec
        self.damaged_packets = 0
        self.copied = codec in container.supported_codecs
        self.codec = codec if self.copied else container.default_audio_codec
        if self.copied:
            self._stream = container.add_stream_from_template(source)
        else:
            rate = OPUS_RATE if self.codec == "opus" else source.codec_context.sample_rate
            self._stream = container.add_stream(self.codec, rate=rate)
            self._stream.codec_context.layout = source.codec_context.layout

    def __str__(self) -> str:
        return f"{self._read} copied" if self.copied else f"{self._read} encoded as {self.codec}"

    def convert_packet(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that are written for a packet that was read."""
        if self.copied:
            packet.stream = self._stream
            yield packet
            return
        for frame in self._decode_packet(packet):
            yield from self._stream.encode(frame)

    def flush(self) -> Iterator[Any]:
        """Yield the packets that are written at the end."""
        if not self.copied:
            yield from self._stream.encode(None)

    def _decode_packet(self, packet: Any) -> list[Any]:
        """Return the frames of a packet; a damaged packet has none, and is counted."""
        try:
            return list(packet.decode())
        except av.error.FFmpegError:
            self.damaged_packets += 1
            return []


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

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, out: Path, format: OutputFormat, source: VideoSource) -> None:
        check_writable(out.parent)
        self.out = out
        self._part = out.with_name(f".{out.name}.{os.getpid()}.part")
        try:
            self._container = av.open(str(self._part), "w", format=format.container)
        except av.error.FFmpegError as error:
            raise self._describe_error(error) from error
        self._video = self._add_stream(format, source)
        self._begun = False
        self._start = self._end = Fraction(0)
        self._decoded: Fraction | None = None
        self.tracks = {
            stream.index: AudioTrack(stream, self._container) for stream in source.audio_streams
        }

    def write_frame(self, picture: VideoFrame) -> None:
        """Encode a picture and write its packets."""
        timed: Any = picture
        if not self._begun:
            self._begun, self._start = True, timed.pts * timed.time_base
        self._end = (timed.pts + timed.duration) * timed.time_base
        self._write(self._note_start(self._video.encode(picture)))

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
            with contextlib.suppress(av.error.FFmpegError):
                self._container.close()
            with contextlib.suppress(OSError):
                self._part.unlink()

    def _finish(self) -> None:
        rest = self._note_start(self._video.encode(None))
        if rest:
            self._extend_last_packet(rest[-1])
        self._write(rest)
        for track in self.tracks.values():
            self._write(track.flush())
        try:
            self._container.close()
            self._part.replace(self.out)
        except OSError as error:
            raise self._describe_error(error) from error

    def _note_start(self, packets: list[Any]) -> list[Any]:
        """Note when the first packet is decoded, and return the packets."""
        if packets and self._decoded is None:
            self._decoded = packets[0].dts * packets[0].time_base
        return packets

    def _extend_last_packet(self, last: Any) -> None:
        """Make the last packet end with the video; it may not hold the last frame that is shown.

        MP4 adds up how long packets last in the order in which they are decoded.
        """
        decoded = last.dts * last.time_base - self._decoded
        last.duration = round((self._end - self._start - decoded) / last.time_base)

    def _write(self, packets: Iterable[Any]) -> None:
        try:
            for packet in packets:
                self._container.mux_one(packet)
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
