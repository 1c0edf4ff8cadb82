"""The whole server, in its own processes: workers, signals, what dies or freezes on the way."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from apercu import MaskExplainer, read_picture

PATIENCE = 120
"""Seconds that a busy machine may take to load everything."""


class Running:
    """A server, ready to be asked."""

    def __init__(self, run: Path, *words: str, ready: bool = True) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "apercu", "serve", str(run), "--port", str(port), *words]
        self.process = subprocess.Popen(
            [*command, "--device", "cpu"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if ready:
            self.until(lambda: httpx.get(f"{self.url}/healthz").status_code == 200)

    def until(self, true: Callable[[], bool]) -> None:
        """Waits for something, and fails after a while."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(httpx.TransportError):
                if true():
                    return
            assert self.process.poll() is None, self.said()
            time.sleep(0.1)
        pytest.fail(f"nothing happened within {PATIENCE} s")

    def explain(self, image: bytes, **fields: Any) -> httpx.Response:
        address = f"{self.url}/v1/explain"
        return httpx.post(address, files={"image": image}, data=fields, timeout=PATIENCE)

    def worker(self) -> int:
        """Process id of the worker."""
        for pid in _children(self.process.pid):
            if "multiprocessing.spawn" in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        return 0

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The worker stands still meanwhile, so that images wait for as long as a test wants."""
        worker = self.worker()
        os.kill(worker, signal.SIGSTOP)
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGCONT)

    def holds(self, images: int) -> bool:
        """Whether so many images wait or are in work."""
        text = httpx.get(f"{self.url}/metrics").text
        return f"apercu_images {images}.0" in text.splitlines()

    def said(self) -> str:
        output, _ = self.process.communicate(timeout=PATIENCE)
        return output.decode()

    def tell(self, how: str) -> None:
        """Tells it to end."""
        if how == "TERM":
            self.process.terminate()
        else:  # all processes at once, as a terminal or systemd does
            os.killpg(self.process.pid, signal.SIGINT if how == "Ctrl-C" else signal.SIGTERM)

    def end(self, how: str = "TERM") -> tuple[int, str]:
        """Stops it; its exit code, and what it said."""
        self.tell(how)
        result = self.said()
        return self.process.returncode, result


def _children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return [int(word) for one in threads for word in (one / "children").read_text().split()]


def _tree(server: Running) -> list[Path]:
    """Where the kernel tells of a server's processes."""
    return [Path(f"/proc/{pid}") for pid in _children(server.process.pid)]


@pytest.fixture
def start(tiny_run: Path) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def begin(*words: str, run: Path = tiny_run, ready: bool = True) -> Running:
        started.append(Running(run, *words, ready=ready))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.end()


@pytest.fixture(scope="module")
def large() -> bytes:
    """A picture that takes a moment to decode."""
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "how", ["TERM", *(pytest.param(one, marks=pytest.mark.slow) for one in ("Ctrl-C", "all"))]
)
def test_it_answers_and_finishes_what_is_in_flight(start, tiny_run, png, large, how) -> None:
    server = start("--batch", "2")
    explainer = MaskExplainer.from_pretrained(tiny_run)
    record = server.explain(png, target="rings", format="array").json()
    expected = explainer.attribute(explainer.prepare(read_picture(png))[None], "rings")[0]
    got = np.array(record["answers"][0]["map"]["array"])
    assert np.abs(got - expected.numpy()).max() < 1e-5
    metrics = httpx.get(f"{server.url}/metrics").text
    assert 'apercu_requests_total{path="/v1/explain",status="200"} 1.0' in metrics
    answered: list[int] = []
    threads = [
        threading.Thread(target=lambda: answered.append(server.explain(large).status_code))
        for _ in range(6)
    ]
    with server.paused():
        for thread in threads:
            thread.start()
        server.until(lambda: server.holds(6))
        server.tell(how)
    result = server.said()
    for thread in threads:
        thread.join()
    assert answered == [200] * 6
    assert server.process.returncode == 0
    greeting, doubt = result.splitlines()
    assert greeting == f"serving {tiny_run}: {server.url}/ (Ctrl-C ends it)"
    assert doubt.startswith(f"warning: {tiny_run}: does not look trained: it had 2 steps")
    assert not _alive(server)


@pytest.mark.parametrize(
    "how", ["Ctrl-C", *(pytest.param(one, marks=pytest.mark.slow) for one in ("TERM", "all"))]
)
def test_it_ends_at_once_while_it_loads(start, how) -> None:
    server = start(ready=False)
    server.until(lambda: server.worker() != 0)
    left = _tree(server)
    code, result = server.end(how)
    assert (code, result) == (0, "")
    _check_gone(left)


def test_a_worker_that_dies_while_it_loads_ends_the_server(start) -> None:
    server = start(ready=False)
    server.until(lambda: server.worker() != 0)
    left = _tree(server)
    os.kill(server.worker(), signal.SIGKILL)
    assert (
        server.said()
        == "error: a worker ended while it started; check that there is enough memory\n"
    )
    assert server.process.returncode == 1
    _check_gone(left)


def _alive(server: Running) -> bool:
    with suppress(httpx.TransportError):
        httpx.get(f"{server.url}/healthz")
        return True
    return False


@pytest.mark.slow
def test_an_export_is_served(start, tiny_export, tiny_run, png) -> None:
    server = start(run=tiny_export)
    explainer = MaskExplainer.from_pretrained(tiny_run)
    record = server.explain(png, target=["rings", "dots"], format="array").json()
    images = explainer.prepare(read_picture(png))[None].expand(2, -1, -1, -1)
    expected = explainer.attribute(images, ["rings", "dots"])
    for answer, map in zip(record["answers"], expected, strict=True):
        assert np.abs(np.array(answer["map"]["array"]) - map.numpy()).max() < 1e-3
    assert server.end("TERM")[0] == 0


def test_a_worker_that_dies_is_replaced(start, png, large) -> None:
    server = start("--batch", "1")
    answered: list[httpx.Response] = []
    threads = [
        threading.Thread(target=lambda: answered.append(server.explain(large))) for _ in range(4)
    ]
    with server.paused():
        before = server.worker()
        for thread in threads:
            thread.start()
        server.until(lambda: server.holds(4))
    server.until(lambda: not server.holds(4))  # it is at work on the second
    os.kill(before, signal.SIGKILL)
    server.until(lambda: server.worker() not in (0, before))
    for thread in threads:
        thread.join()
    lost = [one for one in answered if one.status_code != 200]
    assert [one.status_code for one in lost] == [503] * len(lost)
    assert len(lost) <= 1
    for one in lost:
        assert one.headers["retry-after"] == "1"
        assert one.json()["detail"].startswith("the worker that had the image stopped")
    assert server.explain(png).status_code == 200
    assert server.end()[0] == 0


def test_a_worker_that_freezes_is_replaced(start, png) -> None:
    server = start("--deadline", "1")
    before = server.worker()
    os.kill(before, signal.SIGSTOP)
    refused = server.explain(png)
    assert refused.status_code == 504
    server.until(lambda: httpx.get(f"{server.url}/healthz").status_code == 503)
    server.until(lambda: httpx.get(f"{server.url}/healthz").status_code == 200)
    assert server.worker() not in (0, before)
    assert server.explain(png).status_code == 200
    assert "apercu_workers_replaced 1.0" in httpx.get(f"{server.url}/metrics").text.splitlines()
    code, result = server.end()
    assert code == 0
    assert result.endswith("\na worker answered nothing for 5 s; another one is started\n")
    assert not _runs(Path(f"/proc/{before}"))


@pytest.mark.slow
def test_a_web_process_that_is_killed_leaves_no_process(start) -> None:
    server = start()
    left = _tree(server)
    assert len(left) == 3  # the worker, the tracker of multiprocessing, and the decoder
    server.process.kill()
    server.said()
    assert server.process.returncode != 0
    assert not _alive(server)
    _check_gone(left)


def _check_gone(left: list[Path]) -> None:
    """Asserts that processes end, though not at once."""
    end = time.monotonic() + PATIENCE
    while any(map(_runs, left)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(map(_runs, left))


def _runs(process: Path) -> bool:
    try:
        return "State:\tZ" not in (process / "status").read_text()
    except OSError:
        return False


def test_what_cannot_be_served_is_one_line(tiny_run, tmp_path, capsys) -> None:
    from apercu.cli import main

    def ended(*words: str) -> str:
        with pytest.raises(SystemExit, match="2"):
            main(["serve", *words])
        result = capsys.readouterr().err
        assert result.count("\n") == 1
        return result

    short = tmp_path / "token"
    short.write_text("short")
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        port = str(busy.getsockname()[1])
        result = ended(str(tiny_run), "--port", port)
        assert result.startswith(
            f"error: port {port}: the server cannot listen on it (Address already in use)"
        )
    assert "expected a run folder" in ended(str(tmp_path), "--port", port)
    assert "expected one of 127.0.0.1, 0.0.0.0, ::" in ended(str(tiny_run), "--host", "here")
    assert "expected a token of at least 16" in ended(str(tiny_run), "--token-file", str(short))
    assert "cannot be read" in ended(str(tiny_run), "--token-file", str(tmp_path / "none"))
