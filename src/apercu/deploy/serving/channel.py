"""Messages between the web process and a worker process, over a pair of connected sockets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import BinaryIO

_HEADER = Struct("!BQHHII")
"""Kind, number, status, batch; bytes of options and of content."""


class MessageKind(IntEnum):
    """What a message says.

    Attributes:
        EXPLAIN: the web process asks for an explanation of an image.
        CANCEL: nobody waits for an image any more, the web process says.
        READY: the worker is loaded; content is the pickled `ServedExplainer`.
        FAILED: the worker cannot be loaded; content is the pickled error.
        BEGUN: the worker begins with an image.
        RESPONSE: the worker answers an image.
        DROPPED: the worker has left out an image that nobody waits for.
    """

    EXPLAIN = 1
    CANCEL = 2
    READY = 3
    FAILED = 4
    BEGUN = 5
    RESPONSE = 6
    DROPPED = 7


@dataclass(frozen=True)
class Message:
    """A message from the web process to a worker, or back.

    Args:
        kind: what it says.
        number: number of the image that it is about.
        content: bytes of an image, or of a response.
        options: pickled options of a request.
        status: HTTP status of a response.
        batch: see `ExplainResponse`.
    """

    kind: MessageKind
    number: int = 0
    content: bytes = b""
    options: bytes = b""
    status: int = 0
    batch: int = 0

    def pack(self) -> bytes:
        """Return the message as bytes."""
        lengths = len(self.options), len(self.content)
        head = _HEADER.pack(self.kind, self.number, self.status, self.batch, *lengths)
        return b"".join((head, self.options, self.content))


class MessageBuffer:
    """Splits a stream of bytes that arrives in pieces into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Return the messages that are complete with the next piece."""
        self._bytes += data
        while len(self._bytes) >= _HEADER.size:
            fields = _HEADER.unpack_from(self._bytes)
            options, content = fields[4:]
            end = _HEADER.size + options + content
            if len(self._bytes) < end:
                return
            middle = _HEADER.size + options
            yield _unpack_message(
                fields, bytes(self._bytes[_HEADER.size : middle]), bytes(self._bytes[middle:end])
            )
            del self._bytes[:end]


def read_message(stream: BinaryIO) -> Message | None:
    """Wait for the next message of a stream; None is its end."""
    head = stream.read(_HEADER.size)
    if len(head) < _HEADER.size:
        return None
    fields = _HEADER.unpack(head)
    options, content = stream.read(fields[4]), stream.read(fields[5])
    if len(options) < fields[4] or len(content) < fields[5]:
        return None
    return _unpack_message(fields, options, content)


def _unpack_message(fields: tuple[int, ...], options: bytes, content: bytes) -> Message:
    kind, number, status, batch, *_ = fields
    return Message(MessageKind(kind), number, content, options, status, batch)
