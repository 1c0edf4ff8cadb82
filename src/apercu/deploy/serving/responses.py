"""Responses: JSON of a worker, or a problem as `application/problem+json` (RFC 9457)."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import responses
from typing import final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from apercu.deploy.serving.errors import TokenError, UnavailableError, UnsupportedEncodingError
from apercu.errors import ApercuError

JSON, PROBLEM_JSON = "application/json", "application/problem+json"
PIECE = 64 << 10
"""Bytes of a response that are sent at once; a longer one is a `LargeResponse`."""
MAX_DETAIL = 500
"""Letters of the detail of a problem."""


@dataclass(frozen=True)
class ExplainResponse:
    """The answer to one `ExplainRequest`.

    Args:
        status: HTTP status.
        body: JSON.
        batch: number of images in the batch, in the response of its first image; else 0.
    """

    status: int
    body: bytes
    batch: int = 0


def make_problem(status: int, detail: str) -> ExplainResponse:
    """Return the problem of a status, in words."""
    content = {
        "type": "about:blank",
        "title": responses.get(status, "Client Disconnected"),
        "status": status,
        "detail": detail if len(detail) <= MAX_DETAIL else f"{detail[:MAX_DETAIL]}…",
    }
    return ExplainResponse(status, json.dumps(content).encode())


def describe_error(error: Exception) -> ExplainResponse:
    """Return the problem that describes an error.

    Of an error that should not happen only the type is given, here and on stderr: its message may
    hold something of the image.
    """
    if isinstance(error, ApercuError):
        return make_problem(error.status, " ".join(str(error).split()))
    name = type(error).__name__
    with suppress(OSError):  # a full disk must not cost the answer, too
        print(f"error: {name} while an image was explained", file=sys.stderr, flush=True)  # noqa: T201
    return make_problem(500, f"{name}; this should not happen: report it")


def silence_libraries() -> None:
    """Keep what libraries say about pictures out of the log: it may quote what clients send.

    C libraries write to the file descriptor of stderr itself; from now on that leads nowhere, and
    only what this process writes by `sys.stderr` reaches the log.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with suppress(OSError):
        sys.stderr.flush()
    log = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    sys.stderr = os.fdopen(log, "w", buffering=1, errors="backslashreplace")


def to_http(response: ExplainResponse, headers: dict[str, str] | None = None) -> Response:
    """Return a response as Starlette sends it."""
    media_type = JSON if response.status == HTTPStatus.OK else PROBLEM_JSON
    return Response(response.body, response.status, headers, media_type)


@final
class LargeResponse(Response):
    """A response that is sent in pieces, as fast as its client reads; its bytes count until then.

    Args:
        response: what is sent.
        resources: are closed when the client has it, or is gone.
    """

    def __init__(self, response: ExplainResponse, resources: ExitStack) -> None:
        super().__init__(response.body, response.status, media_type=JSON)
        self._resources = resources

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._resources:
            start = {"type": "http.response.start", "status": self.status_code}
            await send(start | {"headers": self.raw_headers})
            body = memoryview(self.body)
            for position in range(0, len(body), PIECE):
                piece = bytes(body[position : position + PIECE])
                more = position + PIECE < len(body)
                await send({"type": "http.response.body", "body": piece, "more_body": more})


def refuse(error: Exception) -> Response:
    """Return the HTTP response to a request that failed."""
    headers = {}
    if isinstance(error, UnavailableError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, UnsupportedEncodingError):
        headers["Accept-Encoding"] = "gzip, deflate"
    if isinstance(error, TokenError):
        headers["WWW-Authenticate"] = "Bearer"
    return to_http(describe_error(error), headers)


async def handle_error(request: Request, error: Exception) -> Response:
    """Answer a request whose endpoint raised an error; Starlette calls this."""
    if isinstance(error, HTTPException):
        detail = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "address: there is nothing here; see /openapi.json"
        elif error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            allowed = " or ".join(sorted(dict(error.headers or {})["Allow"].split(", ")))
            detail = f"method: expected {allowed} at this address, got {request.method[:40]}"
        return to_http(make_problem(error.status_code, detail), dict(error.headers or {}))
    return refuse(error)
