"""The life of a server's processes: who may begin, who is told to end, who ends by itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from apercu.errors import ConfigError

if TYPE_CHECKING:
    from litserve import LitServer

LOOK = 0.5
"""Seconds between two looks at whether the parent still lives."""


def check_port(host: str, port: int) -> None:
    """Raises ConfigError if the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ConfigError(
                f"port {port}: cannot be bound to ({error.strerror}); choose another with --port"
            ) from error


@contextmanager
def ended_by_signals(server: LitServer, ending: threading.Event) -> Iterator[None]:
    """Within it SIGTERM and Ctrl-C set `ending`, and let the server end in order.

    Processes that are forked meanwhile leave both signals to this one, which tells them when to
    end, and end when it is killed.
    """
    own = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if os.getpid() != own:
            return
        ending.set()
        if server._shutdown_event is None:
            raise KeyboardInterrupt
        threading.Thread(target=server._shutdown_event.set, daemon=True).start()

    def follow() -> None:
        if os.getppid() == own:
            threading.Thread(target=_end_after, args=(own,), daemon=True).start()

    os.register_at_fork(after_in_child=follow)
    before = {one: signal.signal(one, end) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _end_after(parent: int) -> None:
    """Ends this process when its parent was killed, which could not tell it."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)
