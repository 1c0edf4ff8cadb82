"""The addresses of a server, as a Starlette application."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from apercu.deploy.serving.bodies import decompress_body
from apercu.deploy.serving.errors import (
    ClientDisconnectedError,
    DeadlineExceededError,
    NotFoundError,
)
from apercu.deploy.serving.labelling import LabellingEndpoints, LabellingQueue
from apercu.deploy.serving.limits import BODIES, AdmissionControl, MemoryBudget
from apercu.deploy.serving.metrics import CONTENT_TYPE, Metrics
from apercu.deploy.serving.open_inference import (
    describe_platform,
    describe_tensors,
    parse_inference,
    write_inference,
)
from apercu.deploy.serving.page import Page
from apercu.deploy.serving.requests import (
    ExplainRequest,
    name_places,
    parse_body,
    parse_instances,
)
from apercu.deploy.serving.responses import (
    JSON,
    PIECE,
    ExplainResponse,
    LargeResponse,
    handle_error,
    make_problem,
    to_http,
)
from apercu.deploy.serving.schema import describe_server
from apercu.deploy.serving.security import SecurityMiddleware, byte_counter
from apercu.deploy.serving.served_explainer import ServedExplainer
from apercu.deploy.serving.settings import AccessPolicy, Limits
from apercu.errors import ApercuError

T = TypeVar("T")
ParseFn: TypeAlias = Callable[[str, bytes], Sequence[ExplainRequest]]
"""Reads the images of a request from its content type and its body."""


class WorkerClient(ABC):
    """What the addresses need of the workers."""

    @abstractmethod
    async def explain(self, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
        """Explain images. When the call is cancelled, no worker begins with them any more.

        Raises:
            WorkerLostError: the worker that had one of them stopped.
        """

    @abstractmethod
    def count_waiting(self) -> int:
        """Return the number of images that no worker has begun with."""

    @abstractmethod
    def count_ready(self) -> int:
        """Return the number of workers that are ready."""

    @abstractmethod
    def count_replaced(self) -> int:
        """Return how often a worker was replaced."""


@dataclass(frozen=True, eq=False)
class Service:
    """What the endpoints share.

    Args:
        served: the explainer, as clients see it.
        client: explains.
        limits: limits of requests.
        capacity: images that wait or are being explained.
        token: bearer token that clients must send; None lets everyone in.
        access: which hosts and origins are answered.
        labelling: images that are labelled on the page; None for none.
    """

    served: ServedExplainer
    client: WorkerClient
    limits: Limits
    capacity: int
    token: bytes | None = None
    access: AccessPolicy = field(default_factory=AccessPolicy)
    labelling: LabellingQueue | None = None


def build_app(service: Service) -> Starlette:
    """Return the application with all addresses, its middleware and its error handlers."""
    metrics = Metrics()
    page = Page(service.served, labels=service.labelling is not None)
    routes = [*Endpoints(service, metrics).list_routes(), *page.list_routes()]
    if service.labelling is not None:
        routes += LabellingEndpoints(service.labelling).list_routes()
    app = Starlette(
        routes=routes,
        middleware=[
            Middleware(
                SecurityMiddleware,
                token=service.token,
                max_body=service.limits.body,
                metrics=metrics,
                paths={route.endpoint: route.path for route in routes},
                access=service.access,
            )
        ],
        exception_handlers={ApercuError: handle_error, HTTPException: handle_error},
    )
    app.router.redirect_slashes = False
    return app


@final
class Endpoints:
    """The endpoints of one explainer.

    Args:
        service: what they share.
        metrics: the metrics of the server.
    """

    def __init__(self, service: Service, metrics: Metrics) -> None:
        self.served = service.served
        self.client = service.client
        self.deadline, self.max_body = service.limits.deadline, service.limits.body
        self.admission = AdmissionControl(
            service.capacity, service.limits.per_client, BODIES * service.limits.body
        )
        self.response_memory = MemoryBudget(BODIES * service.limits.body, free=0)
        self.metrics = metrics
        document = describe_server(
            self.served.name,
            locked=service.token is not None,
            has_cases=self.served.cases > 0,
        )
        self.document = json.dumps(document).encode()
        client, queue = self.client, self.admission.queue
        metrics.add_gauge("apercu_queue_images", "Images that wait.", client.count_waiting)
        metrics.add_gauge("apercu_images", "Images that wait or are in work.", lambda: queue.taken)
        metrics.add_gauge("apercu_workers_ready", "Workers that are ready.", client.count_ready)
        metrics.add_gauge(
            "apercu_workers_replaced", "Workers that were replaced.", client.count_replaced
        )

    def list_routes(self) -> list[Route]:
        """Return the routes of all addresses but those of the page."""
        model, model_v2 = "/v1/models/{name}", "/v2/models/{name}"
        return [
            Route("/v1/explain", self.explain, methods=["POST"]),
            Route(f"{model}:predict", self.predict, methods=["POST"]),
            Route(f"{model}:explain", self.explain_instances, methods=["POST"]),
            Route("/v1/models", self.list_models),
            Route(model, self.describe_model),
            Route("/v2", self.describe_platform),
            Route("/v2/health/live", self.check_live),
            Route("/v2/health/ready", self.check_ready),
            Route(model_v2, self.describe_tensors),
            Route(f"{model_v2}/ready", self.check_model_ready),
            Route(f"{model_v2}/infer", self.infer, methods=["POST"]),
            Route("/healthz", self.check_health),
            Route("/metrics", self.send_metrics),
            Route("/openapi.json", self.send_document),
        ]

    async def explain(self, request: Request) -> Response:
        """Explain the image of a form or a JSON object."""
        names = self.served.names
        [response] = await self._explain_body(
            request, lambda kind, body: [parse_body(kind, body, names)]
        )
        return self._respond(response)

    async def predict(self, request: Request) -> Response:
        """Predict the classes of several images (KServe, protocol 1)."""
        return await self._explain_several(request, maps=False)

    async def explain_instances(self, request: Request) -> Response:
        """Explain several images (KServe, protocol 1)."""
        return await self._explain_several(request, maps=True)

    async def list_models(self, request: Request) -> Response:
        """Name the explainer that is served."""
        return JSONResponse({"models": [self.served.name]})

    async def describe_model(self, request: Request) -> Response:
        """Describe the explainer: classes, size of maps, whether a worker is ready."""
        self._check_model(request)
        return JSONResponse(self.served.describe() | {"ready": self._is_ready})

    async def check_health(self, request: Request) -> Response:
        """Answer 200 if a worker is ready, else 503."""
        if self._is_ready:
            return PlainTextResponse("ok\n")
        return PlainTextResponse("not ready\n", 503)

    async def describe_platform(self, request: Request) -> Response:
        """Describe the server (KServe, protocol 2)."""
        return JSONResponse(describe_platform())

    async def check_live(self, request: Request) -> Response:
        """Answer 200: the web process runs."""
        return JSONResponse({"live": True})

    async def check_ready(self, request: Request) -> Response:
        """Answer 200 if a worker is ready, else 503."""
        return JSONResponse({"ready": self._is_ready}, 200 if self._is_ready else 503)

    async def describe_tensors(self, request: Request) -> Response:
        """Describe the input and the output of the explainer (KServe, protocol 2)."""
        self._check_model(request)
        return JSONResponse(describe_tensors(self.served.name))

    async def check_model_ready(self, request: Request) -> Response:
        """Answer 200 if a worker is ready, else 503; 404 for another model."""
        self._check_model(request)
        content = {"name": self.served.name, "ready": self._is_ready}
        return JSONResponse(content, 200 if self._is_ready else 503)

    async def infer(self, request: Request) -> Response:
        """Explain several images (KServe, protocol 2)."""
        self._check_model(request)
        id: str | None = None

        def parse(content_type: str, body: bytes) -> Sequence[ExplainRequest]:
            nonlocal id
            inference = parse_inference(content_type, body, self.served.names)
            id = inference.id
            return inference.images

        responses = await self._explain_body(request, parse)
        return self._respond(
            _find_problem(responses, "data") or write_inference(self.served.name, id, responses)
        )

    async def send_metrics(self, request: Request) -> Response:
        """Send the counters for Prometheus."""
        return Response(self.metrics.render(), media_type=CONTENT_TYPE)

    async def send_document(self, request: Request) -> Response:
        """Send the OpenAPI document."""
        return Response(self.document, media_type=JSON)

    @property
    def _is_ready(self) -> bool:
        """Whether a worker is ready."""
        return self.client.count_ready() > 0

    async def _explain_several(self, request: Request, *, maps: bool) -> Response:
        """Explain the images of a KServe request; without maps only the classes are given."""
        self._check_model(request)
        names = self.served.names
        responses = await self._explain_body(
            request, lambda kind, body: parse_instances(kind, body, names, maps=maps)
        )
        if problem := _find_problem(responses, "instances"):
            return to_http(problem)
        bodies = b", ".join(response.body for response in responses)
        key = b"explanations" if maps else b"predictions"
        return self._respond(ExplainResponse(200, b'{"%s": [%s]}' % (key, bodies)))

    def _respond(self, response: ExplainResponse) -> Response:
        """Return a response; the bytes of a large one count until it is sent."""
        if len(response.body) <= PIECE or response.status != 200:
            return to_http(response)
        with ExitStack() as resources:
            hold = resources.enter_context(self.response_memory.hold())
            hold(len(response.body))
            return LargeResponse(response, resources.pop_all())

    async def _explain_body(self, request: Request, parse: ParseFn) -> list[ExplainResponse]:
        """Read the body of a request, and explain its images within all limits."""
        clients, address = self.admission.clients, _read_client_address(request)
        with clients.take(address), self.admission.memory.hold() as hold:
            async with self._enforce_deadline():
                body = await self._read_body(request, hold)
                requests = parse(request.headers.get("content-type", ""), body)
                clients.check(len(requests))
                with clients.take(address, len(requests) - 1):
                    return await self._run(request, requests)

    async def _read_body(self, request: Request, hold: Callable[[int], None]) -> bytes:
        pieces = []
        async with self.admission.upload(byte_counter(request)):
            try:
                async for piece in request.stream():
                    hold(len(piece))
                    pieces.append(piece)
            except ClientDisconnect as error:
                raise ClientDisconnectedError("body: cut short, the client disconnected") from error
        body = b"".join(pieces)
        coding = request.headers.get("content-encoding", "")
        if coding:
            body = await asyncio.to_thread(decompress_body, body, coding, self.max_body)
            hold(len(body))
        return body

    async def _run(
        self, request: Request, requests: Sequence[ExplainRequest]
    ) -> list[ExplainResponse]:
        with self.admission.queue.take(len(requests)):
            responses = await run_until_disconnect(request, self.client.explain(requests))
        for response in responses:
            if response.batch:
                self.metrics.batches.observe(response.batch)
        return responses

    def _check_model(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self.served.name:
            raise NotFoundError(f"model: {name[:80]!r} is not served here, {self.served.name!r} is")

    @asynccontextmanager
    async def _enforce_deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self.deadline):
                yield
        except TimeoutError:
            raise DeadlineExceededError(
                f"no answer within {self.deadline:g} s; send the image again later, or a smaller "
                "one"
            ) from None


async def run_until_disconnect(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine for as long as the client of a request is connected.

    Args:
        request: whose body has been read.
        work: the coroutine; it is cancelled when the client disconnects.

    Returns:
        What the coroutine returns.

    Raises:
        ClientDisconnectedError: the client disconnected first.
    """
    running = asyncio.ensure_future(work)
    disconnect = asyncio.ensure_future(_wait_for_disconnect(request))
    try:
        await asyncio.wait((running, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            return running.result()
        raise ClientDisconnectedError(
            "connection: the client disconnected before there was an answer"
        )
    finally:
        for task in (running, disconnect):
            task.cancel()
        await asyncio.gather(running, disconnect, return_exceptions=True)


async def _wait_for_disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _read_client_address(request: Request) -> str:
    return request.client.host if request.client is not None else ""


def _find_problem(responses: Sequence[ExplainResponse], key: str) -> ExplainResponse | None:
    """Return the first problem among the responses to a request.

    Args:
        responses: one for each image.
        key: the list of the request that holds the images; of several images the problem says
            which one it is about, such as `instances[1]`.

    Returns:
        The problem; None if there is none.
    """
    for place, response in name_places(key, responses):
        if response.status != 200:
            return make_problem(response.status, place + json.loads(response.body)["detail"])
    return None
