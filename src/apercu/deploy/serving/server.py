"""The whole server: LitServe's queue and workers, this package's addresses, an orderly end."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import torch
from litserve import LitServer

from apercu.deploy.inference import is_export
from apercu.deploy.serving.about import About
from apercu.deploy.serving.desk import LitDesk
from apercu.deploy.serving.guard import Guard
from apercu.deploy.serving.life import LOOK, Life, check_port
from apercu.deploy.serving.metrics import Metrics
from apercu.deploy.serving.page import Page
from apercu.deploy.serving.places import Door
from apercu.deploy.serving.routes import Routes
from apercu.deploy.serving.settings import ServeSettings
from apercu.deploy.serving.wire import Wire
from apercu.deploy.serving.worker import Work, Worker, open_answering

KEPT = ("/openapi.json",)
"""LitServe's and FastAPI's own addresses that stay; their documentation page loads from afar."""


def serve(settings: ServeSettings, say: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C, and then finishes what is in flight.

    Args:
        settings: of the server.
        say: told in one line when it is ready.

    Raises:
        RunError: the run cannot be opened.
        ConfigError: the port is taken.
        ApercuError: a process ended by itself.
    """
    check_port(settings.host, settings.port)
    threads = max(1, torch.get_num_threads() // settings.crew.workers)
    work = Work(settings.run, settings.classifier, settings.limits.pixels, threads)
    device = settings.crew.device if is_export(settings.run) else "cpu"  # workers have the GPU
    about = About.of(open_answering(work, device).facts, settings.run)
    worker = Worker(work, settings.crew.batch)
    server = build(settings, worker, about)

    def greet() -> None:
        with suppress(OSError):  # where nothing can be said
            say(_address(settings))

    with Life(server, worker.gathering.closed).lived():
        threading.Thread(target=greet, daemon=True).start()
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


def build(settings: ServeSettings, worker: Worker, about: About) -> LitServer:
    """LitServe with the addresses of this package in the place of its own."""
    limits, crew = settings.limits, settings.crew
    metrics = Metrics()
    guard = {"token": settings.token, "body": limits.body, "metrics": metrics}
    server = LitServer(
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
