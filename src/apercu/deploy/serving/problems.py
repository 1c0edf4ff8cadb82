"""Errors as `application/problem+json` (RFC 9457), in the words of the command line."""

from __future__ import annotations

import json
import sys
from contextlib import suppress
from http import HTTPStatus
from http.client import responses

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from apercu.deploy.serving.errors import RefusedError, TokenError
from apercu.deploy.serving.orders import Made
from apercu.errors import ApercuError

MEDIA_TYPE = "application/problem+json"
LONGEST = 500


def problem(error: Exception) -> Made:
    """What a caller is told; of what should not happen only its kind, which goes to stderr, too."""
    if isinstance(error, ApercuError):
        return told(error.status, " ".join(str(error).split()))
    kind = type(error).__name__
    with suppress(OSError):  # a full disk must not cost the answer, too
        print(f"error: {kind} while an image was explained", file=sys.stderr, flush=True)  # noqa: T201
    return told(500, f"{kind}; this should not happen: report it")


def told(status: int, detail: str) -> Made:
    """A problem of a status."""
    content = {
        "type": "about:blank",
        "title": responses.get(status, "Caller Gone"),
        "status": status,
        "detail": detail if len(detail) <= LONGEST else f"{detail[:LONGEST]}…",
    }
    return Made(status, json.dumps(content).encode())


def response(made: Made, headers: dict[str, str] | None = None) -> Response:
    """What travels over HTTP."""
    kind = "application/json" if made.status == HTTPStatus.OK else MEDIA_TYPE
    return Response(made.body, made.status, headers, kind)


def refusal(error: Exception) -> Response:
    """The answer to a request that failed in the web process."""
    headers = {}
    if isinstance(error, RefusedError):
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, TokenError):
        headers["WWW-Authenticate"] = "Bearer"
    return response(problem(error), headers)


async def on_error(request: Request, error: Exception) -> Response:
    """Handler of every error that an endpoint raises."""
    if isinstance(error, HTTPException):
        detail = error.detail
        if error.status_code == HTTPStatus.NOT_FOUND:
            detail = "address: there is nothing here; see /openapi.json"
        return response(told(error.status_code, detail), dict(error.headers or {}))
    return refusal(error)
