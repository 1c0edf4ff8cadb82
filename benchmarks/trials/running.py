"""A server of a run folder in its own processes, as the command line starts it."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

HOST = "127.0.0.1"
PATIENCE = 300
"""Seconds that a busy machine may take to load everything, or to end."""
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Running:
    """A server that answers.

    Attributes:
        process: its main one.
        port: where it listens.
        log: what it writes.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    def pids(self) -> list[int]:
        """All its processes: the web process, its workers, the tracker of multiprocessing."""
        found = [self.process.pid]
        for pid in found:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found

    def worker(self) -> int:
        """Process id of a worker; 0 while there is none."""
        for pid in self.pids()[1:]:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text()
                if "multiprocessing.spawn" in words:
                    return pid
        return 0

    def kill_worker(self) -> bool:
        """Whether there was one to kill."""
        if pid := self.worker():
            os.kill(pid, signal.SIGKILL)
        return pid != 0

    def fill_disk(self) -> None:
        """From now on none of its processes can write a byte to any file."""
        for pid in self.pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))

    def memory(self) -> float:
        """Megabytes that all its processes hold, what they share told once per process."""
        total = 0
        for pid in self.pids():
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * PAGE / 1e6

    def counter(self, line: str) -> float:
        """A figure of /metrics."""
        for one in self.get("/metrics").decode().splitlines():
            name, _, value = one.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=PATIENCE) as said:
            return said.read()

    def ready(self) -> bool:
        with suppress(OSError):
            return self.get("/healthz") == b"ok\n"
        return False

    def wait(self) -> None:
        """Until it is ready.

        Raises:
            RuntimeError: it ended instead, or took too long.
        """
        end = time.monotonic() + PATIENCE
        while not self.ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server is not ready: {self.said()}")
            time.sleep(0.1)

    def said(self) -> str:
        """All that it wrote; nothing where it could not."""
        if not self.log.seek(0, os.SEEK_END):
            return ""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@contextmanager
def running(
    run: Path, *words: str, full_disk: bool = False, **environment: str
) -> Iterator[Running]:
    """A server with more words on its command line; ended in order when the block ends.

    On a full disk it can write no byte to its log from the start, nor to a file once it is ready.
    """
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "apercu", "serve", str(run), "--port", str(port), *words]
    with Path("/dev/full").open("r+b") if full_disk else tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu"],
            stdout=log,
            stderr=log,
            env=os.environ | environment,
        )
        server = Running(process, port, log)
        try:
            server.wait()
            if full_disk:
                server.fill_disk()
            yield server
        finally:
            process.terminate()
            process.wait(PATIENCE)
