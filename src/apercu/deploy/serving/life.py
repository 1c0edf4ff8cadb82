"""The life of a server's processes: who may begin, who is told to end, who ends by itself."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING, final

from apercu.errors import ApercuError, ConfigError

if TYPE_CHECKING:
    from litserve import LitServer

LOOK = 0.2
"""Seconds between two looks at whether a process lives."""
ENDS = (signal.SIGTERM, signal.SIGINT)


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


@final
class Life:
    """Of a server's processes: LitServe forks a manager, spawns the workers, and forks the web
    process when one of them is ready; from then on it has begun.

    Args:
        server: whose processes they are.
        closed: tells the workers that nobody can be waiting for them.
    """

    def __init__(self, server: LitServer, closed: ctypes.c_bool) -> None:
        self.server = server
        self.closed = closed
        self.begun = threading.Event()
        self.ending = threading.Event()
        self.failure: str | None = None
        self.own = os.getpid()

    @contextmanager
    def lived(self) -> Iterator[None]:
        """Within it SIGTERM and Ctrl-C end the server in order, and at once before it has begun.

        The processes that it starts leave both signals to this one, which tells them when to end,
        and end when it is killed.

        Raises:
            ApercuError: a process ended by itself.
        """
        before = {one: signal.signal(one, self._end) for one in ENDS}
        threading.Thread(target=self._watch, daemon=True).start()
        # that thread takes them from here on; what is started inherits the mask
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
        os.register_at_fork(
            before=self._fork, after_in_parent=self._forked, after_in_child=self._follow
        )
        try:
            yield
        except KeyboardInterrupt:
            pass
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)
            for one, handler in before.items():
                signal.signal(one, handler)
            for child in multiprocessing.active_children():
                child.kill()
        if self.failure is not None:
            raise ApercuError(self.failure)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self.own:
            return
        again = self.ending.is_set()
        self.ending.set()
        if not (again or self.begun.is_set()):
            raise KeyboardInterrupt

    def _watch(self) -> None:
        """Ends the server when that was asked for, or a process has ended by itself."""
        while not (self.ending.is_set() or self.begun.wait(LOOK)):
            if not all(one.is_alive() for one in getattr(self.server, "inference_workers", ())):
                self._fail("a worker ended before it was ready; is there enough memory?")
        self.begun.wait(LOOK)  # the web process may be about to be forked
        while self.begun.is_set() and not self.ending.wait(LOOK):
            if not _web_lives():
                self._fail("the web process ended by itself; start the server again")
        if self.begun.is_set():
            self.server._shutdown_event.set()
        while self.begun.is_set() and _web_lives():
            time.sleep(LOOK)
        self.closed.value = True

    def _fail(self, reason: str) -> None:
        """Ends the server, unless it ends already, which is why a process has."""
        if not self.ending.is_set():
            self.failure = reason
            os.kill(self.own, signal.SIGTERM)
            self.ending.wait()

    def _forks_web(self) -> bool:
        """Whether the process that is being forked is the web process: not the manager."""
        return self.server._shutdown_event is not None and not self.begun.is_set()

    def _fork(self) -> None:
        if os.getpid() == self.own and self._forks_web():
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDS)

    def _forked(self) -> None:
        if os.getpid() == self.own and self._forks_web():
            self.begun.set()

    def _follow(self) -> None:
        if os.getppid() != self.own:
            return
        if self._forks_web():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)  # until it has a handler of its own
        threading.Thread(target=_end_after, args=(self.own,), daemon=True).start()


def _web_lives() -> bool:
    """Whether there is a web process."""
    return any(one.name.startswith("LitServer") for one in multiprocessing.active_children())


def _end_after(parent: int) -> None:
    """Ends this process when its parent was killed, which could not tell it."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    os._exit(1)
