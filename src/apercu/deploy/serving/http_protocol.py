"""What uvicorn leaves open: slow or long heads, clients that only listen or that never read.

`HttpProtocol` extends uvicorn's protocol for httptools. It uses the names `cycle`, `transport`,
`loop`, `pipeline`, `on_response_complete` and `send_400_response`, which are not documented;
therefore pyproject.toml sets an upper bound on the version of uvicorn.
"""

from __future__ import annotations

import asyncio
import socket
from http import HTTPStatus
from typing import cast, final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apercu.deploy.serving.responses import PROBLEM_JSON, make_problem

HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request, and for the rest of a body that was answered already."""
MAX_HEAD = 64 << 10
"""Bytes of a head, beside those that arrive with its last piece."""
HEAD_TOO_LONG = f"head: expected at most {MAX_HEAD >> 10} KiB of header lines"
SEND_TIMEOUT, MIN_SENT = 10.0, 10_000
"""Seconds in which a client must read so many bytes of a response that waits for it."""
RESPONSE_START = b"HTTP/1.1 "
"""The first bytes of every response."""
PROBE_INTERVALS = (0.001, 0.01, 0.1)
"""Seconds until a client that has ended its side is probed; the last one is repeated."""


class _StartedTransport:
    """A transport on which the first bytes of a response were sent before; they are left out."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._rest = RESPONSE_START

    def write(self, data: bytes) -> None:
        """Send bytes, without those that were sent before."""
        start, self._rest = self._rest, b""
        self._transport.write(data.removeprefix(start))

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._transport.close()

    def is_closing(self) -> bool:
        """Whether the connection is closed or will be."""
        return self._transport.is_closing()


@final
class HttpProtocol(HttpToolsProtocol):
    """A connection with a client.

    It is closed when a head comes too slowly or is too long, when a client goes on sending a body
    that was answered already, and when it does not read the response. A client that ends its side
    after a request gets the response; one that is gone looks the same, until the first bytes of
    the response are sent to it.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_size: int | None = None
    """Bytes of an incomplete head, beside its first piece; None outside of a head."""
    _heads = 0
    """Number of heads that have begun."""
    _header_size = 0
    """Bytes of the header lines of the last request, those after its body included."""
    _sending: asyncio.TimerHandle | None = None
    """Looks whether a client reads, while a response waits for it."""
    _has_ended = False
    """Whether the client has ended its side of the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
        if self._sending is not None:
            self._sending.cancel()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._header_size = 0
        if self._head_size is None:
            self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of header lines, and ignore those that follow a body."""
        self._header_size += len(name) + len(value)
        if self._header_size > MAX_HEAD and not self.transport.is_closing():
            self._refuse(431, HEAD_TOO_LONG)
        elif self._head_size is not None:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._head_size = None
        self._set_timer(None)
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._set_timer(None)
        super().on_message_complete()

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection if a whole request waits for its response; else close it."""
        is_waiting = self.cycle is not None and not self.cycle.response_complete
        if not is_waiting or self.cycle.more_body:
            return False
        self._has_ended = True
        if not self.pipeline and not self.cycle.response_started:
            self.transport.write(RESPONSE_START)
            self.cycle.transport = cast(asyncio.Transport, _StartedTransport(self.transport))
            self._probe(0)
        return True

    def _probe(self, count: int) -> None:
        """Close the connection if the client has refused bytes; else probe again later."""
        if self.transport.is_closing():
            return
        connection = self.transport.get_extra_info("socket")
        if connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        elif not self.cycle.response_complete:
            pause = PROBE_INTERVALS[min(count, len(PROBE_INTERVALS) - 1)]
            self.loop.call_later(pause, self._probe, count + 1)

    def on_response_complete(self) -> None:
        if self._has_ended and not self.pipeline:
            self.transport.close()
        if self.cycle.more_body:
            self._set_timer(self.loop.call_later(HEAD_TIMEOUT, self.transport.close))
        elif self._head_size is not None:
            self._expect_head()
        super().on_response_complete()

    def data_received(self, data: bytes) -> None:
        in_head, heads = self._head_size is not None, self._heads
        super().data_received(data)
        same = in_head and heads == self._heads
        if same and self._head_size is not None and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._refuse(431, HEAD_TOO_LONG)

    def pause_writing(self) -> None:
        """Wait until the client reads, but not for ever."""
        super().pause_writing()
        self._watch_client()

    def resume_writing(self) -> None:
        """Send on, as the client has read."""
        super().resume_writing()
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, whether or not its client has read everything."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(SEND_TIMEOUT, self.transport.abort)

    def _watch_client(self, before: int | None = None) -> None:
        """Close the connection of a client that reads too slowly; else look again later."""
        waiting = self.transport.get_write_buffer_size()
        if before is not None and before - waiting < MIN_SENT:
            self.transport.abort()
            return
        self._sending = self.loop.call_later(SEND_TIMEOUT, self._watch_client, waiting)

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, with a problem like every other one."""
        self._refuse(400, "request: expected well-formed HTTP/1.1")

    def _expect_head(self) -> None:
        """Start the timer of a head, once the request before it has been answered."""
        self._head_size, self._heads = 0, self._heads + 1
        if self.cycle is not None and not self.cycle.response_complete:
            return
        detail = f"head: expected all header lines within {HEAD_TIMEOUT:g} s"
        self._set_timer(self.loop.call_later(HEAD_TIMEOUT, self._refuse, 408, detail))

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _refuse(self, status: int, detail: str) -> None:
        self._set_timer(None)
        body = make_problem(status, detail).body
        lines = (
            f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
            f"content-type: {PROBLEM_JSON}",
            f"content-length: {len(body)}",
            "connection: close",
        )
        self.transport.write("\r\n".join((*lines, "\r\n")).encode() + body)
        self.transport.close()
