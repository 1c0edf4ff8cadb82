"""A server's addresses in this process, with a desk that works at once."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from fastapi import FastAPI
from PIL import Image

from apercu.classifiers import open_classifier
from apercu.deploy.serving.about import About
from apercu.deploy.serving.desk import Desk
from apercu.deploy.serving.guard import Guard
from apercu.deploy.serving.metrics import Metrics
from apercu.deploy.serving.orders import Made, Order
from apercu.deploy.serving.page import Page
from apercu.deploy.serving.places import Door
from apercu.deploy.serving.routes import Routes
from apercu.deploy.serving.wire import Wire
from apercu.deploy.serving.worker import Work, Worker, open_answering
from apercu.explainers.build import build_network
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS


class InlineDesk(Desk):
    """Does what LitServe's worker does, in this process, as slowly as is asked."""

    def __init__(self, worker: Worker, seconds: float = 0) -> None:
        self.worker = worker
        self.seconds = seconds

    async def ask(self, orders: Sequence[Order]) -> list[Made]:
        await asyncio.sleep(self.seconds)
        return self.worker.predict([self.worker.decode_request(order) for order in orders])

    def waiting(self) -> int:
        return 0

    def ready(self) -> bool:
        return True


class Caller:
    """Asks the addresses of an app, without a network."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **sent: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **sent)

        return asyncio.run(ask())

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://apercu")

    def explain(self, image: bytes, **fields: Any) -> httpx.Response:
        return self("POST", "/v1/explain", files={"image": image}, data=fields)


@pytest.fixture(scope="session")
def worker(tiny_run: Path) -> Worker:
    work = Work(tiny_run, None, 1_000_000, 1)
    made = Worker(work, 8)
    made.answering = open_answering(work)
    return made


@pytest.fixture(scope="session")
def serving(worker: Worker) -> Callable[..., Caller]:
    """Builds the addresses; `token`, `body`, `places`, `each`, `deadline` and `seconds` of work."""

    def build(**limits: Any) -> Caller:
        at_work = limits.get("worker", worker)
        metrics = Metrics()
        desk = InlineDesk(at_work, limits.get("seconds", 0.0))
        door = Door(limits.get("places", 8), limits.get("each"))
        about = About.of(at_work.answering.facts, at_work.work.run)
        app = FastAPI(
            openapi_url="/openapi.json", docs_url=None, redoc_url=None, redirect_slashes=False
        )
        app.add_middleware(
            Guard,
            token=limits.get("token"),
            body=limits.get("body", 1_000_000),
            metrics=metrics,
        )
        deadline, locked = limits.get("deadline", 30.0), "token" in limits
        Routes(about, desk, door, deadline, metrics, locked=locked).add_to(app)
        Page(about).add_to(app)
        return Caller(app)

    return build


@pytest.fixture(scope="session")
def call(serving: Callable[..., Caller]) -> Caller:
    return serving()


@pytest.fixture(scope="session")
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny_pair(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> Worker:
    """A worker with a counterpart explainer of random weights, and its classifier."""
    classifier = open_classifier(tiny_card)
    settings = COUNTERPART_PRESETS.parse({"generators": {"width": 16, "resolution": 4}})
    passport = ClassifierInfo.from_classifier(classifier)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(settings, passport, classifier, pretrained=False)
        for head in (network.decoder.similar, network.decoder.adversarial):
            head.last.weight.data.normal_(0, 3)
    run = tmp_path_factory.mktemp("runs") / "pair"
    CounterpartExplainer(network, passport, settings, {}).save_pretrained(run)
    work = Work(run, str(tiny_card), 1_000_000, 1)
    made = Worker(work, 8)
    made.answering = open_answering(work)
    return made


@pytest.fixture(scope="module")
def listen(serving: Callable[..., Any]) -> Iterator[Callable[..., str]]:
    """Puts an app on a free port, and gives its address."""
    servers = []

    def begin(**limits: Any) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        config = uvicorn.Config(
            serving(**limits).app,
            port=port,
            log_level="error",
            lifespan="off",
            ws="none",
            http=Wire,
            server_header=False,
            proxy_headers=False,
        )
        server = uvicorn.Server(config)
        thread = threading.Thread(target=asyncio.run, args=(server.serve(),))
        thread.start()
        servers.append((server, thread))
        while not server.started:
            time.sleep(0.05)
        return f"http://127.0.0.1:{port}/"

    yield begin
    for server, thread in servers:
        server.should_exit = True
        thread.join()
