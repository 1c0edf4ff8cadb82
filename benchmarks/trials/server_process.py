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
class ServerProcess:
    """A server that is ready.

    Attributes:
        process: its web process.
        port: on which it listens.
        log: what it has written.
    """

    process: subprocess.Popen[bytes]
    port: int
    log: IO[bytes]

    def list_pids(self) -> list[int]:
        """Return all its processes: web process, workers, tracker of multiprocessing."""
        result = [self.process.pid]
        for pid in result:
            with suppress(OSError):
                for task in Path(f"/proc/{pid}/task").iterdir():
                    result += map(int, (task / "children").read_text().split())
        return result

    def find_worker(self) -> int:
        """Return the process id of a worker, or 0."""
        for pid in self.list_pids()[1:]:
            with suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_text()
                if "multiprocessing.spawn" in words:
                    return pid
        return 0

    def kill_worker(self) -> bool:
        """Kill a worker; return whether there was one."""
        if pid := self.find_worker():
            os.kill(pid, signal.SIGKILL)
        return pid != 0

    def fill_disk(self) -> None:
        """Let none of its processes write to any file from now on."""
        for pid in self.list_pids():
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, 0))

    def measure_memory(self) -> float:
        """Return the megabytes of all its processes; shared memory counts in each of them."""
        total = 0
        for pid in self.list_pids():
            with suppress(OSError):
                total += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return total * PAGE / 1e6

    def read_metric(self, line: str) -> float:
        """Return a figure of /metrics."""
        for one in self.get("/metrics").decode().splitlines():
            name, _, value = one.rpartition(" ")
            if name == line:
                return float(value)
        return 0.0

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{HOST}:{self.port}{path}", timeout=PATIENCE) as result:
            return result.read()

    def is_ready(self) -> bool:
        """Whether /healthz says so."""
        with suppress(OSError):
            return self.get("/healthz") == b"ok\n"
        return False

    def wait_until_ready(self) -> None:
        """Wait until it is ready.

        Raises:
            RuntimeError: it ended instead, or took too long.
        """
        end = time.monotonic() + PATIENCE
        while not self.is_ready():
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server is not ready: {self.read_log()}")
            time.sleep(0.1)

    def read_log(self) -> str:
        """Return what it has written."""
        if not self.log.seek(0, os.SEEK_END):
            return ""
        self.log.seek(0)
        return self.log.read().decode(errors="replace")


@contextmanager
def run_server(
    run: Path, *words: str, full_disk: bool = False, **environment: str
) -> Iterator[ServerProcess]:
    """Run a server with further options; it is ended in order when the block ends.

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
        server = ServerProcess(process, port, log)
        try:
            server.wait_until_ready()
            if full_disk:
                server.fill_disk()
            yield server
        finally:
            process.terminate()
            process.wait(PATIENCE)
