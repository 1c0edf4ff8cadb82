"""Tracks of sound: copied, or encoded again where the container cannot hold their codec."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from typing import Any, final

import av

OPUS_RATE = 48_000
"""Samples per second that every encoder of sound takes."""
QUICKTIME_LANGUAGES = {
    **{"deu": "ger", "nld": "dut", "fre": "fra", "swe": "sve", "ell": "gre", "isl": "ice"},
    **{"zho": "chi", "sqi": "alb", "mkd": "mac", "rum": "ron", "cze": "ces", "slo": "slk"},
    **{"hrv": "hr ", "srp": "sr "},
}
"""Codes of languages (ISO 639-2) that QuickTime files write in another way."""
_TAGS = ("language", "title")


@final
class AudioTrack:
    """A stream of sound that is copied, or encoded again where the container cannot hold its codec.

    Language, title and disposition (such as "default") are those of the source.

    Args:
        source: the stream that is read.
        container: the container that is written.
        encoder: the name of the codec for sound that is encoded again.

    Attributes:
        stream: the stream that is written.
        copied: whether the sound stays as it was encoded.
        codec: the codec that is written.
        damaged_packets: the number of packets so far that could not be decoded.
    """

    def __init__(self, source: Any, container: Any, encoder: str) -> None:
        self._source = source
        self._codec = source.codec_context.codec.canonical_name
        self.damaged_packets = 0
        self.copied = _can_hold(container.format.name, source)
        self.codec = self._codec if self.copied else encoder
        self._resampler: Any = None
        self._kind: tuple[str, str, int] | None = None
        if self.copied:
            self.stream = container.add_stream_from_template(source)
        else:
            rate, layout = _choose_input(encoder, source.codec_context)
            self.stream = container.add_stream(encoder, rate=rate)
            self.stream.codec_context.layout = layout
        tags = {name: source.metadata[name] for name in _TAGS if name in source.metadata}
        if container.format.name == "mov" and "language" in tags:
            tags["language"] = QUICKTIME_LANGUAGES.get(tags["language"], tags["language"])
        self.stream.metadata.update(tags)
        self.stream.disposition = source.disposition

    def __str__(self) -> str:
        return f"{self._codec} copied" if self.copied else f"{self._codec} encoded as {self.codec}"

    def convert_packet(self, packet: Any) -> Iterator[Any]:
        """Yield the packets that are written for a packet that was read."""
        if self.copied:
            packet.stream = self.stream
            yield packet
        else:
            yield from self._encode_packet(packet)

    def flush(self) -> Iterator[Any]:
        """Yield the packets that are written at the end."""
        if not self.copied:
            yield from self._encode_packet(None)
            if self._resampler is not None:
                yield from self._encode_frames(self._resampler.resample(None))
            yield from self._encode_frames([None])

    def _encode_packet(self, packet: Any) -> Iterator[Any]:
        """Yield what is written for a packet, or for the rest in the decoder if it is None.

        A damaged packet is left out, and counted.
        """
        try:
            for frame in self._source.codec_context.decode(packet):
                yield from self._encode_frames(self._convert_frame(frame))
        except (av.error.FFmpegError, ValueError):
            if packet is not None:
                self.damaged_packets += 1

    def _convert_frame(self, frame: Any) -> list[Any]:
        """Return a decoded frame, whose format may change, in the format of the encoder."""
        coding = self.stream.codec_context
        before: list[Any] = []
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind:
            if self._resampler is not None:
                before = self._resampler.resample(None)
            self._kind = kind
            self._resampler = av.AudioResampler(coding.format, coding.layout, coding.sample_rate)
        return [*before, *self._resampler.resample(frame)]

    def _encode_frames(self, frames: Sequence[Any]) -> Iterator[Any]:
        for frame in frames:
            yield from self.stream.encode(frame)


def _can_hold(container: str, source: Any) -> bool:
    """Return whether a container takes a stream as it is: whether its header can be written.

    The list of codecs of a container is too long (Opus in QuickTime), so it is tried.
    """
    trial = av.open(io.BytesIO(), "w", format=container)
    try:
        trial.add_stream_from_template(source)
        trial.start_encoding()
    except (av.error.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.error.FFmpegError):
            trial.close()
    return True


def _choose_input(encoder: str, source: Any) -> tuple[int, str]:
    """Return the samples per second and the layout of the channels for an encoder.

    They are those of the source, or the nearest that the encoder takes.
    """
    codec: Any = av.Codec(encoder, "w")
    rates = codec.audio_rates or [source.sample_rate]
    rate = source.sample_rate if source.sample_rate in rates else OPUS_RATE
    fewer = "mono" if source.layout.nb_channels == 1 else "stereo"
    for layout in (source.layout.name, fewer):
        coding: Any = av.CodecContext.create(encoder, "w")
        with contextlib.suppress(av.error.FFmpegError, ValueError):
            coding.sample_rate, coding.layout = rate, layout
            coding.format = codec.audio_formats[0]
            coding.open()
            return rate, layout
    return rate, fewer
