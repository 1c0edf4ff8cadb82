"""Sound: copied packet by packet, or encoded again where the container does not take it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import av

OPUS_RATE = 48_000
"""The only rate of sound that Opus knows."""


@final
class AudioTrack:
    """A stream of sound on its way into a file.

    Args:
        source: the stream that is read.
        container: that is written.

    Attributes:
        copied: whether it stays as it was encoded.
        codec: what it is written as.
        damaged: packets that could not be decoded, so far.
    """

    def __init__(self, source: Any, container: Any) -> None:
        codec = source.codec_context.codec.canonical_name
        self._read = codec
        self.damaged = 0
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
        """What is written for a packet that was read."""
        if self.copied:
            packet.stream = self._stream
            yield packet
            return
        for frame in self._decode_packet(packet):
            yield from self._stream.encode(frame)

    def flush(self) -> Iterator[Any]:
        """What is written at the end."""
        if not self.copied:
            yield from self._stream.encode(None)

    def _decode_packet(self, packet: Any) -> list[Any]:
        """What a packet holds; nothing where it is damaged, which is counted."""
        try:
            return list(packet.decode())
        except av.error.FFmpegError:
            self.damaged += 1
            return []
