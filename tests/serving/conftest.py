"""The addresses of a server in this process, with workers that answer at once."""

from __future__ import annotations

import asyncio
import functools
import io
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from starlette.applications import Starlette

from apercu import MaskExplainer
from apercu.classifiers import open_classifier
from apercu.deploy.export import ExportInputs, ExportSettings, write_export
from apercu.deploy.export.web_runtime import read_web_runtime
from apercu.deploy.serving.app import Service, WorkerClient, build_app
from apercu.deploy.serving.http_protocol import HttpProtocol
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse
from apercu.deploy.serving.settings import AccessPolicy, Limits
from apercu.deploy.serving.worker import ImageWorker, WorkerSetup, open_explainer
from apercu.errors import ConfigError
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.kind import build_counterpart_network
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CAMERA = ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream")
PATIENCE = 60_000
"""Milliseconds until a page must have done something."""


def _respond(worker: ImageWorker, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
    prepared = [worker.prepare(request) for request in requests]
    return [worker.write(explained) for explained in worker.explain(prepared)]


def _open_worker(run: Path, classifier: str | None = None) -> ImageWorker:
    setup = WorkerSetup(run, classifier, 1_000_000)
    return ImageWorker(open_explainer(setup), setup.max_pixels)


class InlineClient(WorkerClient):
    """Does what a worker process does, in this process, as slowly as is asked."""

    def __init__(self, worker: ImageWorker, seconds: float = 0) -> None:
        self.worker = worker
        self.seconds = seconds

    async def explain(self, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
        await asyncio.sleep(self.seconds)
        first, *others = _respond(self.worker, requests)
        return [ExplainResponse(first.status, first.body, len(requests)), *others]

    def count_waiting(self) -> int:
        return 0

    def count_ready(self) -> int:
        return 1

    def count_replaced(self) -> int:
        return 0


class Caller:
    """Calls the addresses of an app, without a network."""

    def __init__(self, app: Starlette) -> None:
        self.app = app

    def __call__(self, method: str, path: str, **sent: Any) -> httpx.Response:
        async def request() -> httpx.Response:
            async with self.client() as client:
                return await client.request(method, path, **sent)

        return asyncio.run(request())

    def client(self) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(self.app)
        return httpx.AsyncClient(transport=transport, base_url="http://apercu")

    def explain(self, image: bytes, **fields: Any) -> httpx.Response:
        return self("POST", "/v1/explain", files={"image": image}, data=fields)


@pytest.fixture(scope="session")
def respond() -> Callable[..., list[ExplainResponse]]:
    """Returns the responses of a worker to a batch."""
    return _respond


@pytest.fixture(scope="session")
def open_worker() -> Callable[..., ImageWorker]:
    """Opens what a worker process of a run folder opens."""
    return _open_worker


@pytest.fixture(scope="session")
def worker(tiny_run: Path) -> ImageWorker:
    return _open_worker(tiny_run)


@pytest.fixture(scope="session")
def serving(worker: ImageWorker) -> Callable[..., Caller]:
    """Builds the addresses; `token`, `body`, `places`, `each`, `deadline`, `hosts`, `origins`, and
    `seconds` of work."""

    def build(**given: Any) -> Caller:
        at_work = given.get("worker", worker)
        limits = Limits(
            given.get("body", 1_000_000),
            at_work.max_pixels,
            per_client=given.get("each"),
            deadline=given.get("deadline", 30.0),
        )
        service = Service(
            at_work.explainer.served,
            InlineClient(at_work, given.get("seconds", 0.0)),
            limits,
            given.get("places", 8),
            given.get("token"),
            AccessPolicy(
                given.get("hosts", ("apercu", "x", "elsewhere")), given.get("origins", ())
            ),
            given.get("labelling"),
        )
        return Caller(build_app(service))

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
def tiny_pair(tiny_card: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageWorker:
    """A worker with a counterpart explainer of random weights, and its classifier."""
    classifier = open_classifier(tiny_card)
    settings = COUNTERPART_PRESETS.parse({"generators": {"width": 16, "resolution": 4}})
    passport = ClassifierInfo.from_classifier(classifier)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_counterpart_network(settings, passport, classifier, pretrained=False)
        for head in (network.decoder.similar, network.decoder.adversarial):
            head.last.weight.data.normal_(0, 3)
    run = tmp_path_factory.mktemp("runs") / "pair"
    CounterpartExplainer(network, passport, settings, {}).save_pretrained(run)
    return _open_worker(run, str(tiny_card))


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
            http=HttpProtocol,
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


class QuietHandler(SimpleHTTPRequestHandler):
    """Sends files, and logs nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        return


@pytest.fixture(scope="session")
def site(
    tiny_run: Path,
    tiny_card: Path,
    tiny_export: Path,
    copy_graphs: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """The folder, below the one that is served."""
    try:
        runtime = read_web_runtime()
    except ConfigError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("served") / "some folder" / "site"
    inputs = ExportInputs(open_classifier(tiny_card), web_runtime=runtime, name="tiny explainer")
    with copy_graphs(tiny_export):
        write_export(MaskExplainer.from_pretrained(tiny_run), out, ExportSettings(("web",)), inputs)
    return out


@pytest.fixture(scope="session")
def site_address(site: Path) -> Iterator[str]:
    handler = functools.partial(QuietHandler, directory=str(site.parents[1]))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}/some%20folder/site/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium: Playwright's own, or the system's."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="page: no playwright")
    with sync_api.sync_playwright() as playwright:
        result = (shutil.which(name) for name in BROWSERS)
        own = playwright.chromium.executable_path
        path = own if Path(own).exists() else next(filter(None, result), None)
        if path is None:
            pytest.skip("page: no Chromium; playwright install chromium")
        words = ["--no-sandbox", *CAMERA]
        opened = playwright.chromium.launch(executable_path=path, args=words)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page that must not complain, nor ask another address."""
    contexts, wrong = [], []

    def begin(address: str, *, prepare: Callable[[Any], None] | None = None, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("console", lambda line: _note_error(line, wrong))
        page.on("request", lambda request: _note_address(request.url, address, wrong))
        if prepare is not None:
            prepare(page)
        page.goto(address)
        return page

    yield begin
    for context in contexts:
        context.close()
    assert not wrong


@pytest.fixture(scope="session")
def bring() -> Callable[[Any, str | Path], None]:
    """Chooses a file on the page, and waits until it is explained."""

    def choose(page: Any, path: str | Path) -> None:
        page.set_input_files("#file", str(path))
        page.wait_for_selector("#work[aria-busy=false] #views canvas")

    return choose


def _note_error(line: Any, wrong: list[str]) -> None:
    if line.type == "error" and "status of 4" not in line.text:
        wrong.append(line.text)


def _note_address(url: str, address: str, wrong: list[str]) -> None:
    if not url.startswith((address, "blob:", "data:")):
        wrong.append(url)
