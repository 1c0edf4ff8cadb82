"""The whole server: LitServe's queue and workers, this package's addresses, an orderly end."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.process import BaseProcess
from typing import Any, final

import torch
from litserve import LitServer

from apercu.engines import is_export
from apercu.errors import ApercuError
from apercu.serving.about import About
from apercu.serving.desk import LitDesk
from apercu.serving.guard import Guard
from apercu.serving.life import check_port, ended_by_signals
from apercu.serving.metrics import Metrics
from apercu.serving.page import Page
from apercu.serving.places import Door
from apercu.serving.routes import Routes
from apercu.serving.settings import ServeSettings
from apercu.serving.wire import Wire
from apercu.serving.worker import Work, Worker, open_answering

KEPT = ("/openapi.json",)
"""LitServe's and FastAPI's own addresses that stay; their documentation page loads from afar."""
LOOK = 0.2


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, and then finishes what is in flight.

    Args:
        settings: of the server.
        say: told in one line when it is ready.

    Raises:
        RunError: the run cannot be opened.
        ConfigError: the port is taken.
        ApercuError: the web process ended by itself.
    """
    check_port(settings.host, settings.port)
    threads = max(1, torch.get_num_threads() // settings.crew.workers)
    work = Work(settings.run, settings.classifier, settings.limits.pixels, threads)
    device = settings.crew.device if is_export(settings.run) else "cpu"  # workers have the GPU
    about = About.of(open_answering(work, device).facts, settings.run)
    worker = Worker(work, settings.crew.batch)
    server = build(settings, worker, about)
    ending, failed = threading.Event(), threading.Event()

    def greet() -> None:
        with suppress(OSError):  # where nothing can be said
            say(_address(settings))

    def watch() -> None:
        while server.has_web(before=not ending.is_set()):
            time.sleep(LOOK)
        if not ending.is_set():
            failed.set()
            os.kill(os.getpid(), signal.SIGTERM)
        worker.gathering.closed.value = True

    with ended_by_signals(server, ending):
        for one in (greet, watch):
            threading.Thread(target=one, daemon=True).start()
        server.run(
            host=settings.host,
            port=settings.port,
            num_api_servers=1,
            log_level="error",
            generate_client_file=False,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Wire,
            ws="none",
        )
    if failed.is_set():
        raise ApercuError("the web process ended by itself; start the server again")


@final
class Watched(LitServer):
    """A LitServe server whose web process can be watched."""

    _web: Mapping[int, BaseProcess] | None = None

    def has_web(self, *, before: bool) -> bool:
        """Whether the web process lives; `before` is the answer as long as it has not begun."""
        return before if self._web is None else any(one.is_alive() for one in self._web.values())

    def _start_server(self, *words: Any, **options: Any) -> Mapping[int, BaseProcess]:
        self._web = super()._start_server(*words, **options)
        return self._web


def build(settings: ServeSettings, worker: Worker, about: About) -> Watched:
    """A server with the addresses of this package in the place of its own."""
    limits, crew = settings.limits, settings.crew
    metrics = Metrics()
    guard = {"token": settings.token, "body": limits.body, "metrics": metrics}
    server = Watched(
        worker,
        accelerator=crew.device,
        workers_per_device=crew.workers,
        timeout=limits.deadline,
        restart_workers=True,
        middlewares=[(Guard, guard)],
    )
    workers = len(server.devices) * crew.workers
    door = Door(limits.queue + workers * crew.batch, limits.each)
    worker.hire(workers, door.queue.most)
    server.monitor_internal = LOOK
    server.uvicorn_graceful_timeout = max(1, round(limits.deadline))
    app = server.app
    app.title, app.version = f"apercu: {about.name}", "1"
    app.router.routes[:] = [r for r in app.router.routes if getattr(r, "path", "") in KEPT]
    app.user_middleware[:] = [one for one in app.user_middleware if one.cls is Guard]
    app.router.redirect_slashes = False
    desk, locked = LitDesk(server, worker), settings.token is not None
    Routes(about, desk, door, limits.deadline, metrics, locked=locked).add_to(app)
    Page(about).add_to(app)
    return server


def _address(settings: ServeSettings) -> str:
    """Waits until the server listens, and says where."""
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host
    while True:
        with suppress(OSError), socket.create_connection((host, settings.port), LOOK):
            shown = f"[{host}]" if ":" in host else host
            return f"serving {settings.run}: http://{shown}:{settings.port}/ (Ctrl-C ends it)"
        time.sleep(LOOK)
