"""What uvicorn leaves open: how long, and how many, the head lines of a request may be."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apercu.deploy.serving.problems import MEDIA_TYPE, told

PATIENCE = 10.0
"""Seconds for the head of a request, and for what is left of a body that has been answered."""
LONGEST_HEAD = 64 << 10
"""Bytes, beside those that come with the last piece."""
LONG = f"head: expected at most {LONGEST_HEAD >> 10} KiB of header lines"


@final
class Wire(HttpToolsProtocol):
    """One connection.

    Whoever sends a head too slowly, or without an end, is hung up on; and whoever goes on sending a
    body that has been answered.
    """

    _clock: asyncio.TimerHandle | None = None
    _head: int | None = None
    """Bytes of a head that has not ended, but for its first piece."""
    _heads = 0
    """How many have begun."""
    _lines = 0
    """Bytes of the last request's header lines, those after its body included."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set(None)
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._lines = 0
        if self._head is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Counts header lines; those that come after a body are passed over."""
        self._lines += len(name) + len(value)
        if self._lines > LONGEST_HEAD and not self.transport.is_closing():
            self._refuse(431, LONG)
        elif self._head is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head = None
        self._set(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._set(None)
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.cycle.more_body:
            self._set(self.loop.call_later(PATIENCE, self.transport.close))
        elif self._head is not None:
            self._await_head()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        pending, heads = self._head is not None, self._heads
        super().data_received(data)
        same = pending and heads == self._heads
        if same and self._head is not None and not self.transport.is_closing():
            self._head += len(data)
            if self._head > LONGEST_HEAD:
                self._refuse(431, LONG)

    def send_400_response(self, msg: str) -> None:
        """What cannot be parsed is told as every other problem."""
        self._refuse(400, "request: expected well-formed HTTP/1.1")

    def _await_head(self) -> None:
        """The clock runs once the request before has been answered."""
        self._head, self._heads = 0, self._heads + 1
        if self.cycle is not None and not self.cycle.response_complete:
            return
        words = f"head: expected all header lines within {PATIENCE:g} s"
        self._set(self.loop.call_later(PATIENCE, self._refuse, 408, words))

    def _set(self, clock: asyncio.TimerHandle | None) -> None:
        if self._clock is not None:
            self._clock.cancel()
        self._clock = clock

    def _refuse(self, status: int, words: str) -> None:
        self._set(None)
        made = told(status, words)
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {MEDIA_TYPE}",
            f"content-length: {len(made.body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*lines, "\r\n")).encode() + made.body)
        self.transport.close()
