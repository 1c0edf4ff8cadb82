"""What stands before every address: the token, the size of the body, headers, the counting."""

from __future__ import annotations

import hmac
import time
from typing import final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apercu.deploy.serving.errors import TokenError, TooLargeError
from apercu.deploy.serving.metrics import Metrics
from apercu.deploy.serving.problems import refusal
from apercu.deploy.serving.readers import Come

OPEN = ("/", "/healthz", "/page/page.css", "/favicon.svg")
"""Addresses that show nothing of the model, and need no token; the page's scripts are others."""
POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"),
        *("img-src 'self' blob: data:", "media-src 'self' blob:", "base-uri 'none'"),
        *("form-action 'none'", "frame-ancestors 'none'"),
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


COME = "apercu.come"
"""Where a request's scope says how many bytes of its body have come."""


@final
class Guard:
    """ASGI middleware.

    Args:
        app: what it guards.
        token: what callers must show; None lets everyone in.
        body: bytes of a request, at most.
        metrics: where answers are counted.
    """

    def __init__(self, app: ASGIApp, *, token: bytes | None, body: int, metrics: Metrics) -> None:
        self.app = app
        self.token = token
        self.body = body
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._counted(scope, receive), sent)
        except Exception as error:
            if status:
                raise  # half an answer has been sent
            await refusal(error)(scope, receive, sent)
        finally:
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.answered(path, status, time.perf_counter() - begun)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if self.token is not None and not _is_open(scope["path"]):
            kind, _, shown = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(shown.strip().encode(), self.token)
            if kind.lower() != "bearer" or not right:
                raise TokenError("token: expected Authorization: Bearer with the server's token")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.body:
            raise self._too_large()

    def _counted(self, scope: Scope, receive: Receive) -> Receive:
        """The same body, counted in the scope, which must not grow over the limit."""
        scope[COME] = 0

        async def received() -> Message:
            message = await receive()
            scope[COME] += len(message.get("body", b""))
            if scope[COME] > self.body:
                raise self._too_large()
            return message

        return received

    def _too_large(self) -> TooLargeError:
        return TooLargeError(f"body: expected at most {self.body / 1e6:g} MB; send a smaller image")


def come(request: Request) -> Come:
    """How many bytes of its body have passed the guard."""
    return lambda: int(request.scope[COME])


def _is_open(path: str) -> bool:
    return path in OPEN or (path.startswith("/page/") and path.endswith(".js"))
