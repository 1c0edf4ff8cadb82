"""Limits on the head of a request, which uvicorn leaves open: how long, and within what time.

`HttpProtocol` extends uvicorn's protocol for httptools. It uses the names `cycle`, `transport`,
`loop`, `on_response_complete` and `send_400_response`, which are not documented; therefore
pyproject.toml sets an upper bound on the version of uvicorn.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from apercu.deploy.serving.responses import PROBLEM_JSON, make_problem

HEAD_TIMEOUT = 10.0
"""Seconds for the head of a request, and for the rest of a body that was answered already."""
MAX_HEAD = 64 << 10
"""Bytes of a head, beside those that arrive with its last piece."""
HEAD_TOO_LONG = f"head: expected at most {MAX_HEAD >> 10} KiB of header lines"


@final
class HttpProtocol(HttpToolsProtocol):
    """A connection with a client.

    It is closed when a head comes too slowly or is too long, and when a client goes on sending a
    body that was answered already.
    """

    _timer: asyncio.TimerHandle | None = None
    _head_size: int | None = None
    """Bytes of an incomplete head, beside its first piece; None outside of a head."""
    _heads = 0
    """Number of heads that have begun."""
    _header_size = 0
    """Bytes of the header lines of the last request, those after its body included."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_timer(None)
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

    def on_response_complete(self) -> None:
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
