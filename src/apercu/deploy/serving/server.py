"""The whole server: the web process, its worker processes, and an orderly end."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import final

import uvicorn

from apercu.deploy.serving.app import Service, build_app
from apercu.deploy.serving.cases import (
    PreparedCases,
    ProgressDisplay,
    ignore_all,
    prepare_cases,
)
from apercu.deploy.serving.decoder import DecoderSetup
from apercu.deploy.serving.decoding import LIGHT_PIXELS, DecodingClient
from apercu.deploy.serving.http_protocol import HttpProtocol
from apercu.deploy.serving.pool import SIGNALS, WorkerPool
from apercu.deploy.serving.settings import HOSTS, CaseFolders, ServeSettings
from apercu.deploy.serving.worker import WorkerSetup
from apercu.errors import ConfigError


def serve(
    settings: ServeSettings,
    say: Callable[[str], None],
    show_progress: ProgressDisplay = ignore_all,
) -> None:
    """Serve until SIGTERM or Ctrl-C, and then finish the requests that have arrived.

    Args:
        settings: settings of the server.
        say: receives a line when the server is ready, and when a worker is replaced.
        show_progress: shows how many images are done that are compared or labelled.

    Raises:
        RunError: the run cannot be opened.
        ConfigError: the port is taken.
        ApercuError: a worker ended before it was ready.
    """

    def report(line: str) -> None:
        with suppress(OSError):  # nothing can be written
            say(line)

    with (
        bind_socket(settings.host, settings.port) as listening,
        prepare_cases(settings, show_progress) as cases,
        asyncio.Runner(loop_factory=_make_event_loop) as runner,
    ):
        runner.run(Server(settings, report, cases).run(listening))


def bind_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to a port, but does not listen yet.

    Raises:
        ConfigError: the port is taken.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"port {port}: the server cannot listen on it ({error.strerror}); "
            "choose another with --port"
        ) from error
    return bound


@final
class HttpServer(uvicorn.Server):
    """Uvicorn's server, which leaves signals to `Server` and tells when it listens."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self.on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and tell it."""
        await super().startup(sockets)
        self.on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals as they are."""
        yield


@final
@dataclass
class Server:
    """A server from the start of its workers to its end.

    Args:
        settings: settings of the server.
        report: receives a line about what happens.
        cases: images that are compared or labelled.
    """

    settings: ServeSettings
    report: Callable[[str], None]
    cases: PreparedCases = field(default_factory=PreparedCases)
    _loading: asyncio.Task[None] | None = field(default=None, init=False)
    _http: HttpServer | None = field(default=None, init=False)
    _decoding: DecodingClient | None = field(default=None, init=False)

    async def run(self, listening: socket.socket) -> None:
        """Load the workers, then answer requests on a socket, until a signal comes."""
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self._end)
        setups = plan_workers(self.settings, self.cases.folders)
        pool = WorkerPool(setups, self.settings.limits.deadline, self.report)
        self._loading = asyncio.create_task(self._load(pool))
        try:
            with suppress(asyncio.CancelledError):  # by a signal, while workers are loaded
                await self._loading
            if self._http is not None:
                await self._http.serve([listening])
        finally:
            if self._decoding is not None:
                self._decoding.close()
            await pool.close()

    async def _load(self, pool: WorkerPool) -> None:
        served = await pool.start()
        settings, limits = self.settings, self.settings.limits
        capacity = limits.queue + len(pool.setups) * settings.workers.batch
        setup = DecoderSetup.from_limit(served.input, limits.pixels)
        self._decoding = client = DecodingClient(pool, setup, limits.deadline)
        await client.start()
        labelling = self.cases.labelling
        service = Service(
            served=served,
            client=client,
            limits=limits,
            capacity=capacity,
            token=settings.token,
            access=settings.access,
            labelling=labelling,
        )
        config = uvicorn.Config(
            build_app(service),
            http=HttpProtocol,
            ws="none",
            lifespan="off",
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]  # any seconds
            timeout_graceful_shutdown=max(1, round(limits.deadline)),
        )
        self._http = HttpServer(config, self._say_address)

    def _say_address(self) -> None:
        """Say where the server listens, and what a person should know of the run and the token."""
        host = "127.0.0.1" if self.settings.host == "0.0.0.0" else self.settings.host
        if ":" in host:
            host = f"[{host}]"
        address = f"http://{host}:{self.settings.port}/"
        self.report(f"serving {self.settings.run}: {address} (Ctrl-C ends it)")
        from apercu.explainers.run_folder import load_doubts

        if doubts := load_doubts(self.settings.run):
            self.report(f"warning: {doubts}")
        if self.settings.host != HOSTS[0] and self.settings.token is None:
            self.report(
                "no token is set: whoever reaches this machine may use the server, by its IP "
                "address, a loopback name or the names of --allow-host; --token-file asks for a "
                "token"
            )

    def _end(self) -> None:
        """End at once while workers are loaded; after that, finish what has arrived."""
        if self._http is not None:
            self._http.should_exit = True
        elif self._loading is not None:
            self._loading.cancel()


def plan_workers(settings: ServeSettings, cases: CaseFolders | None = None) -> list[WorkerSetup]:
    """Return the setup of each worker; on a machine with GPUs, each of them has all workers."""
    import torch

    from apercu.classifiers.trust import is_trusting

    workers = settings.workers
    devices = [workers.device]
    if workers.device == "cuda":
        devices = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    threads = max(1, torch.get_num_threads() // workers.workers)
    return [
        WorkerSetup(
            run=settings.run,
            classifier=settings.classifier,
            max_pixels=min(settings.limits.pixels, LIGHT_PIXELS),
            batch=workers.batch,
            threads=threads,
            device=device,
            trust=is_trusting(),
            cases=cases,
            guard=settings.guard,
        )
        for device in devices
        for _ in range(workers.workers)
    ]


def _make_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of uvloop, which takes less time, where that is installed."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        return asyncio.new_event_loop()
    return new_event_loop()
