"""The checks before every address: host, origin, token, size; and the headers of responses."""

from __future__ import annotations

import hmac
import time
from collections.abc import Mapping
from typing import Any, final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from apercu.deploy.serving.errors import ForbiddenError, TokenError, TooLargeError
from apercu.deploy.serving.limits import ByteCounter
from apercu.deploy.serving.metrics import Metrics
from apercu.deploy.serving.responses import refuse
from apercu.deploy.serving.settings import EVERY, AccessPolicy

HEALTH_PATHS = ("/healthz", "/v2/health/live", "/v2/health/ready")
OPEN_PATHS = ("/", *HEALTH_PATHS, "/page/page.css", "/favicon.svg")
"""Addresses that show nothing of the model and need no token; so do the scripts of the page."""
CONTENT_POLICY = "; ".join(
    (
        *("default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"),
        *("img-src 'self' blob: data:", "media-src 'self' blob:", "base-uri 'none'"),
        *("form-action 'none'", "frame-ancestors 'none'"),
    )
)
HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Content-Encoding",
    "Access-Control-Allow-Private-Network": "true",
    "Access-Control-Max-Age": "600",
}
"""Headers for a browser that asks whether a page of another origin may send a request."""
EXPOSED = "Retry-After"
"""Headers of a response that a page of another origin may read."""
_ARRIVED = "apercu.arrived"
"""Key of a request's scope: how many bytes of its body have arrived."""


@final
class SecurityMiddleware:
    """ASGI middleware that checks, completes and counts every request.

    Args:
        app: the application behind it.
        token: bearer token that clients must send; None lets everyone in.
        max_body: bytes of a request.
        metrics: counts the responses.
        paths: address of each endpoint, for the metrics.
        access: which hosts and origins are answered without a token, and which pages may read.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        token: bytes | None,
        max_body: int,
        metrics: Metrics,
        paths: Mapping[Any, str],
        access: AccessPolicy,
    ) -> None:
        self.app = app
        self.paths = paths
        self.token = token
        self.max_body = max_body
        self.metrics = metrics
        self.access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        request_headers = Headers(scope=scope)
        shared = self._allow_reading(request_headers)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.update(shared)
            await send(message)

        try:
            if shared and _is_preflight(scope, request_headers):
                await Response(None, 204, PREFLIGHT)(scope, receive, send_with_headers)
                return
            self._check(scope, request_headers)
            await self.app(scope, self._count_bytes(scope, receive), send_with_headers)
        except Exception as error:
            if status:
                raise  # half a response was sent already
            await refuse(error)(scope, receive, send_with_headers)
        finally:
            path = self.paths.get(scope.get("endpoint"), "other")
            self.metrics.count_request(path, status, time.perf_counter() - started)

    def _allow_reading(self, headers: Headers) -> dict[str, str]:
        """Return the headers that let a page of another origin read the response (CORS)."""
        origin = headers.get("origin", "")
        if not origin or not self.access.allows_reading(origin):
            return {}
        allowed = EVERY if EVERY in self.access.origins else origin
        return {
            "Access-Control-Allow-Origin": allowed,
            "Access-Control-Expose-Headers": EXPOSED,
            "Cross-Origin-Resource-Policy": "cross-origin",
            "Vary": "Origin",
        }

    def _check(self, scope: Scope, headers: Headers) -> None:
        if self.token is None:
            self._check_host_and_origin(scope, headers)
        elif not _is_open(scope["path"]):
            scheme, _, token = headers.get("authorization", "").partition(" ")
            is_right = hmac.compare_digest(token.strip().encode(), self.token)
            if scheme.lower() != "bearer" or not is_right:
                raise TokenError("token: expected Authorization: Bearer with the server's token")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self.max_body:
            raise self._make_size_error()

    def _check_host_and_origin(self, scope: Scope, headers: Headers) -> None:
        """Refuse a request to another host name, or of a page of another origin, than allowed."""
        host, origin = headers.get("host", ""), headers.get("origin", "")
        own = (scope.get("server") or (None,))[0]
        if not self.access.is_host_allowed(host, own):
            raise ForbiddenError(
                f"host: without a token only loopback names are answered, not {host[:80]!r}; "
                "name it with --allow-host, or set --token-file"
            )
        if not self.access.is_origin_allowed(origin, own):
            raise ForbiddenError(
                f"origin: without a token only pages of loopback names are answered, not those of "
                f"{origin[:80]!r}; name it with --allow-origin, or set --token-file"
            )

    def _count_bytes(self, scope: Scope, receive: Receive) -> Receive:
        """Return a `receive` that counts the bytes of the body, and refuses too many."""
        scope[_ARRIVED] = 0

        async def receive_counted() -> Message:
            message = await receive()
            scope[_ARRIVED] += len(message.get("body", b""))
            if scope[_ARRIVED] > self.max_body:
                raise self._make_size_error()
            return message

        return receive_counted

    def _make_size_error(self) -> TooLargeError:
        megabytes = self.max_body / 1e6
        return TooLargeError(f"body: expected at most {megabytes:g} MB; send a smaller image")


def byte_counter(request: Request) -> ByteCounter:
    """Return a function that tells how many bytes of a request's body have arrived."""
    return lambda: int(request.scope[_ARRIVED])


def _is_preflight(scope: Scope, headers: Headers) -> bool:
    return scope["method"] == "OPTIONS" and "access-control-request-method" in headers


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or (path.startswith("/page/") and path.endswith(".js"))
