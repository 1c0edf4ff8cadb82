"""The addresses of a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

from fastapi import FastAPI, Security
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from apercu.deploy.serving.about import About
from apercu.deploy.serving.body import read_instances, read_order
from apercu.deploy.serving.desk import Desk
from apercu.deploy.serving.errors import LateError, UnknownError
from apercu.deploy.serving.guard import OPEN, come
from apercu.deploy.serving.metrics import Metrics
from apercu.deploy.serving.orders import Made, Order
from apercu.deploy.serving.places import Door
from apercu.deploy.serving.presence import while_there
from apercu.deploy.serving.problems import on_error, response
from apercu.deploy.serving.schema import EXPLAIN, HEALTH, INSTANCES, PLAIN
from apercu.errors import ApercuError


@final
class Routes:
    """Endpoints of one explainer.

    Args:
        about: the explainer.
        desk: takes orders.
        door: how much callers may take up.
        deadline: seconds from the first byte of a request to its answer.
        metrics: what is counted.
        locked: whether callers must show a token, which the guard asks for and OpenAPI tells of.
    """

    def __init__(
        self,
        about: About,
        desk: Desk,
        door: Door,
        deadline: float,
        metrics: Metrics,
        *,
        locked: bool = False,
    ) -> None:
        self.about = about
        self.desk = desk
        self.door = door
        self.deadline = deadline
        self.metrics = metrics
        self.locks = [Security(HTTPBearer(auto_error=False))] if locked else []
        metrics.watch(desk.waiting, lambda: door.queue.taken)

    def add_to(self, app: FastAPI) -> None:
        """Registers every address but the page."""
        app.add_exception_handler(ApercuError, on_error)
        app.add_exception_handler(HTTPException, on_error)
        model = "/v1/models/{name}"
        for method, address, endpoint, documented, kind in (
            ("POST", "/v1/explain", self.explain, EXPLAIN, JSONResponse),
            ("POST", f"{model}:predict", self.predict, INSTANCES, JSONResponse),
            ("POST", f"{model}:explain", self.explain_all, INSTANCES, JSONResponse),
            ("GET", "/v1/models", self.models, PLAIN, JSONResponse),
            ("GET", model, self.model, PLAIN, JSONResponse),
            ("GET", "/healthz", self.health, HEALTH, PlainTextResponse),
            ("GET", "/metrics", self.counted, PLAIN, PlainTextResponse),
        ):
            app.add_api_route(
                address,
                endpoint,
                methods=[method],
                response_class=kind,
                openapi_extra=documented,
                dependencies=[] if address in OPEN else self.locks,
            )

    async def explain(self, request: Request) -> Response:
        """Explain one image."""
        with self.door.callers.take(_address(request)):
            async with self._in_time():
                async with self.door.read(come(request)):
                    order = await read_order(request, self.about.facts.names)
                [made] = await self._ask(request, [order])
        return response(made)

    async def predict(self, name: str, request: Request) -> Response:
        """The classes that are seen most in several images (KServe, protocol 1)."""
        return await self._several(name, request, "predictions")

    async def explain_all(self, name: str, request: Request) -> Response:
        """Explain several images (KServe, protocol 1)."""
        return await self._several(name, request, "explanations")

    async def models(self) -> Response:
        """The explainer that is served."""
        return JSONResponse({"models": [self.about.name]})

    async def model(self, name: str) -> Response:
        """What is served: classes, the size of maps, whether a worker is ready."""
        self._check(name)
        return JSONResponse(self.about.record() | {"ready": self.desk.ready()})

    async def health(self) -> Response:
        """200 as soon as a worker is ready, else 503."""
        ready = self.desk.ready()
        return PlainTextResponse("ok\n" if ready else "not ready\n", 200 if ready else 503)

    async def counted(self) -> Response:
        """Counters for Prometheus."""
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def _several(self, name: str, request: Request, word: str) -> Response:
        self._check(name)
        maps, callers, address = word == "explanations", self.door.callers, _address(request)
        with callers.take(address):
            async with self._in_time():
                async with self.door.read(come(request)):
                    orders = await read_instances(request, self.about.facts.names, maps=maps)
                with callers.take(address, len(orders) - 1):
                    made = await self._ask(request, orders)
        for one in made:
            if one.status != 200:
                return response(one)
        bodies = b", ".join(one.body for one in made)
        return response(Made(200, b'{"%s": [%s]}' % (word.encode(), bodies)))

    async def _ask(self, request: Request, orders: list[Order]) -> list[Made]:
        with self.door.queue.take(len(orders)):
            made = await while_there(request, self.desk.ask(orders))
        for one in made:
            if one.batch:
                self.metrics.batches.observe(one.batch)
        return made

    def _check(self, name: str) -> None:
        if name != self.about.name:
            raise UnknownError(f"model: {name[:80]!r} is not served here, {self.about.name!r} is")

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.deadline):
                yield
        except TimeoutError:
            words = f"no answer within {self.deadline:g} s; send the image again later"
            raise LateError(f"{words}, or a smaller one") from None


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else ""
