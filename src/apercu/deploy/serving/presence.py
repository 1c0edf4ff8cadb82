"""Whether somebody still waits for an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from apercu.deploy.serving.errors import GoneError

T = TypeVar("T")


async def while_there(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Waits for work as long as the caller does; it is cancelled when the caller hangs up.

    Args:
        request: whose body has been read.
        work: that is waited for.

    Raises:
        GoneError: the caller hung up.
    """
    done, gone = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        raise GoneError("connection: the caller hung up before there was an answer")
    finally:
        for one in (done, gone):
            one.cancel()
        await asyncio.gather(done, gone, return_exceptions=True)


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
