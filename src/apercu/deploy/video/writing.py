"""Frames and sounds → a file that plays, also when it is ended early."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, final

import av
from av import VideoFrame
from av.codec.context import Flags

from apercu.deploy.video.formats import OutputFormat
from apercu.deploy.video.frames import PLANAR, VIDEO_RANGE
from apercu.deploy.video.sound import AudioTrack
from apercu.deploy.video.source import VideoSource
from apercu.errors import OutputError
from apercu.io import check_writable


@final
class VideoWriter:
    """A video that is written; `with` finishes it, and gives it its name.

    What was written when Ctrl-C is pressed is kept and plays; without a frame, or after an error,
    nothing is kept.

    Args:
        out: the file.
        format: of the file.
        source: of its frames and sounds.

    Attributes:
        tracks: of sound.

    Raises:
        OutputError: it cannot be written.
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
        self.tracks = {one.index: AudioTrack(one, self._container) for one in source.sounds}

    def write_frame(self, picture: VideoFrame) -> None:
        """Encodes a picture."""
        timed: Any = picture
        if not self._begun:
            self._begun, self._start = True, timed.pts * timed.time_base
        self._end = (timed.pts + timed.duration) * timed.time_base
        self._write(self._note_start(self._video.encode(picture)))

    def write_audio(self, packet: Any) -> None:
        """Copies a packet of sound, or encodes it again."""
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
        """The packets; when the first of all is decoded is kept."""
        if packets and self._decoded is None:
            self._decoded = packets[0].dts * packets[0].time_base
        return packets

    def _extend_last_packet(self, last: Any) -> None:
        """Lets the last packet end with the video: it need not hold the last frame that is shown.

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
        coding.width, coding.height = source.look.size
        coding.pix_fmt, coding.color_range = PLANAR, VIDEO_RANGE
        coding.time_base = source.time_base
        coding.flags |= Flags.frame_duration
        coding.sample_aspect_ratio = source.look.pixel
        coding.colorspace = source.look.matrix.tag
        coding.color_primaries, coding.color_trc = read.color_primaries, read.color_trc
        return stream

    def _describe_error(self, error: Exception) -> OutputError:
        reason = getattr(error, "strerror", None) or str(error)
        return OutputError(f"{self.out}: cannot be written ({reason})")
