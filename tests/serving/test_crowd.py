"""Limits on what clients may take up, and what happens to the images of one who disconnects."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import socket
import time
from contextlib import suppress
from urllib.parse import urlsplit

import httpx
import pytest
from PIL import Image

from apercu.deploy.serving import http_protocol
from apercu.deploy.serving.app import run_until_disconnect
from apercu.deploy.serving.errors import (
    BusyError,
    ClientDisconnectedError,
    TooLargeError,
    TooManyRequestsError,
)
from apercu.deploy.serving.limits import (
    AdmissionControl,
    MemoryBudget,
    PerClientLimit,
    QueueSlots,
    UploadSlots,
)


def test_places_are_given_back() -> None:
    places = QueueSlots(3)
    with pytest.raises(KeyError), places.take(2):
        assert places.taken == 2
        places.check()
        with pytest.raises(BusyError, match="queue: full, 2 of at most 3 images are here already"):
            places.check(2)
        raise KeyError
    assert places.taken == 0
    with pytest.raises(TooLargeError, match="at most 3 images in a request, got 4; send them in p"):
        places.check(4)  # later would not help


def test_each_address_has_its_share() -> None:
    callers = PerClientLimit(2)
    with callers.take("a"), callers.take("b", 2):
        with pytest.raises(
            TooManyRequestsError, match="at most 2 images at a time from one address"
        ):
            callers.take("b").__enter__()
        with callers.take("a"):
            assert callers.counts == {"a": 2, "b": 2}
    assert not callers.counts
    alone = PerClientLimit(1)
    with alone.take("a"), pytest.raises(TooManyRequestsError, match="at most 1 image at a time"):
        alone.take("a").__enter__()
    with pytest.raises(TooLargeError, match="at most 2 images in a request, got 3"):
        callers.take("a", 3).__enter__()
    with PerClientLimit(None).take("a", 10_000):
        pass


def test_who_is_read_takes_no_place_in_the_queue() -> None:
    async def ask() -> None:
        admission = AdmissionControl(1)
        async with admission.upload(lambda: 0):
            assert (admission.uploads.taken, admission.queue.taken) == (1, 0)
            with pytest.raises(
                BusyError, match="uploads: full, 1 requests are being received already"
            ):
                async with admission.upload(lambda: 0):
                    pass
        with admission.queue.take(), pytest.raises(BusyError, match="queue: full, 1 of at most 1"):
            async with admission.upload(lambda: 0):
                pass
        assert admission.uploads.taken == 0

    asyncio.run(ask())


def test_the_slowest_body_gives_its_place_up(monkeypatch) -> None:
    monkeypatch.setattr("apercu.deploy.serving.limits.UPLOAD_GRACE", 0.01)
    readers, lines = UploadSlots(2), []

    async def read(name: str, come: int, seconds: float) -> None:
        try:
            async with readers.take(lambda: come):
                await asyncio.sleep(seconds)
                lines.append(f"{name} is read")
        except BusyError as error:
            lines.append(f"{name}: {str(error)[:31]}")

    async def crowd() -> None:
        others = [asyncio.create_task(read(*one)) for one in (("b", 5, 0.2), ("a", 2, 60))]
        await asyncio.sleep(0.05)
        await read("c", 9, 0)  # a gives way, which came later and was slower
        await asyncio.gather(*others)
        assert readers.taken == 0

    asyncio.run(crowd())
    assert lines == ["c is read", "a: uploads: this body came too slo", "b is read"]


def test_no_body_is_given_up_for_another_that_is_no_faster() -> None:
    """Many honest callers on slow lines: who is being read is read to the end."""

    async def crowd() -> tuple[int, int]:
        readers, bodies = UploadSlots(4), []

        async def read() -> bool:
            begun = asyncio.get_running_loop().time()
            come = lambda: int(50_000 * (asyncio.get_running_loop().time() - begun))  # noqa: E731
            try:
                async with readers.take(come):
                    await asyncio.sleep(0.2)
                    return True
            except BusyError:
                return False

        for _ in range(30):
            bodies.append(asyncio.create_task(read()))
            await asyncio.sleep(0.02)
        result = await asyncio.gather(*bodies)
        return sum(result), sum(result[:4])

    read, first = asyncio.run(crowd())
    assert first == 4 and read >= 8


def test_a_deadline_is_no_lack_of_room() -> None:
    async def ask() -> None:
        readers = UploadSlots(1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), readers.take(lambda: 0):
                await asyncio.sleep(60)
        with pytest.raises(TimeoutError, match="another"):
            async with readers.take(lambda: 0):
                raise TimeoutError("another")
        assert readers.taken == 0

    asyncio.run(ask())


def test_slow_callers_shut_nobody_out(listen, png) -> None:
    url = listen(places=3)
    head = b"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    lines = [socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) for _ in range(3)]
    try:
        for line, sent in zip(lines, (b"{" + 400 * b" ", b"{", b"{ "), strict=True):
            line.sendall(head + b"Content-Length: 1000\r\n\r\n" + sent)
        time.sleep(1)
        answered = httpx.post(f"{url}v1/explain", files={"image": png})
        assert answered.status_code == 200
        lines[1].settimeout(20)
        result = lines[1].recv(4096)
        assert result.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in result
        assert b"this body came too slowly while others waited to be read" in result
        lines[0].setblocking(False)
        with pytest.raises(BlockingIOError):
            lines[0].recv(1)
    finally:
        for line in lines:
            line.close()


def test_a_crowd_of_one_address_is_answered_429(serving, png) -> None:
    call = serving(each=2, seconds=0.3)

    async def crowd() -> list[httpx.Response]:
        async with call.client() as client:
            post = [client.post("/v1/explain", files={"image": png}) for _ in range(4)]
            return list(await asyncio.gather(*post))

    answered = asyncio.run(crowd())
    assert sorted(one.status_code for one in answered) == [200, 200, 429, 429]
    refused = next(one for one in answered if one.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"].startswith("caller: expected at most 2 images at a time")
    instances = {"instances": [{"b64": base64.b64encode(png).decode()}] * 3}
    assert (
        call("POST", "/v1/models/tiny:predict", json=instances).status_code == 413
    )  # never so many
    assert call.explain(png).status_code == 200  # the share is free again


class _Request:
    """A request whose caller hangs up after some seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    async def receive(self) -> dict[str, str]:
        await asyncio.sleep(self.seconds)
        return {"type": "http.disconnect"}


def test_the_bytes_of_all_bodies_are_counted_but_their_first() -> None:
    budget = MemoryBudget(1000, free=100)
    with budget.hold() as first, budget.hold() as second:
        first(100)
        assert budget.taken == 0
        first(600)
        first(300)
        assert budget.taken == 900
        with pytest.raises(
            BusyError,
            match="memory: all requests together need more memory than the server may use",
        ):
            second(201)
        assert budget.taken == 900
    assert budget.taken == 0


def test_large_bodies_do_not_shut_small_ones_out(serving, png) -> None:
    call = serving(body=3_000_000, places=40, seconds=0.5)
    body = b'{"image": "' + b"A" * 2_900_000 + b'"}'

    async def crowd() -> list[int]:
        async with call.client() as client:
            headers = {"content-type": "application/json"}
            large = [client.post("/v1/explain", content=body, headers=headers) for _ in range(16)]
            tasks = [asyncio.create_task(one) for one in large]
            await asyncio.sleep(0.2)
            small = await client.post("/v1/explain", files={"image": png})
            return [small.status_code, *(one.status_code for one in await asyncio.gather(*tasks))]

    small, *large = asyncio.run(crowd())
    assert small == 200
    assert set(large) == {422, 503}
    assert large.count(503) == 16 - 24_000_000 // 1_900_013


@pytest.mark.parametrize("address", ["v1/models/tiny:explain", "v2/models/tiny/infer"])
def test_the_bytes_of_all_answers_are_counted(serving, address) -> None:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), 100).save(buffer, "PNG")
    text, options = base64.b64encode(buffer.getvalue()).decode(), {"format": "array", "top": 3}
    tensor = {"name": "image", "datatype": "BYTES", "shape": [16], "data": [text] * 16}
    body = (
        {"instances": [{"b64": text, **options}] * 16}
        if address.startswith("v1")
        else {"inputs": [tensor], "parameters": options}
    )
    response = serving(body=4000, places=40)("POST", f"/{address}", json=body)
    assert response.status_code == 503
    assert response.json()["detail"].startswith(
        "memory: all requests together need more memory than the server may use"
    )


def test_a_client_that_does_not_read_is_hung_up_on(listen, png, monkeypatch) -> None:
    monkeypatch.setattr(http_protocol, "SEND_TIMEOUT", 0.3)
    made = http_protocol.HttpProtocol.connection_made

    def connect(self, transport) -> None:  # with a small buffer in the kernel
        made(self, transport)
        line = transport.get_extra_info("socket")
        line.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)

    monkeypatch.setattr(http_protocol.HttpProtocol, "connection_made", connect)
    port = urlsplit(listen(body=2_000_000, places=40)).port or 0
    text = base64.b64encode(png).decode()
    body = json.dumps({"instances": [{"b64": text, "format": "both", "top": 3}] * 32}).encode()
    head = (
        "POST /v1/models/tiny:explain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode()
    whole = httpx.post(
        f"http://127.0.0.1:{port}/v1/models/tiny:explain",
        content=body,
        headers={"content-type": "application/json", "host": "x"},
    )
    assert len(whole.content) > 500_000
    assert whole.headers["content-length"] == str(len(whole.content))
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect(("127.0.0.1", port))
        line.sendall(head + body)
        time.sleep(2)
        received = b""
        with suppress(ConnectionError):
            while piece := line.recv(65536):
                received += piece
    assert received.startswith(b"HTTP/1.1 200")
    assert len(received) < len(whole.content)


def test_work_is_cancelled_with_its_caller() -> None:
    ended: list[str] = []

    async def work(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
            return "done"
        finally:
            ended.append("ended")

    assert asyncio.run(run_until_disconnect(_Request(60), work(0.01))) == "done"
    with pytest.raises(ClientDisconnectedError, match="the client disconnected"):
        asyncio.run(run_until_disconnect(_Request(0.01), work(600)))
    assert ended == ["ended"] * 2


def test_errors_of_the_work_are_told() -> None:
    async def work() -> None:
        raise BusyError("full")

    with pytest.raises(BusyError, match="full"):
        asyncio.run(run_until_disconnect(_Request(5), work()))


def test_who_hangs_up_leaves_the_queue(listen, png) -> None:
    url = listen(seconds=30)
    form = httpx.Request("POST", f"{url}v1/explain", files={"image": png})
    head = f"POST /v1/explain HTTP/1.1\r\nHost: x\r\nContent-Type: {form.headers['content-type']}"
    sent = f"{head}\r\nContent-Length: {form.headers['content-length']}\r\n\r\n".encode()

    def counted(line: str) -> bool:
        return line in httpx.get(f"{url}metrics").text.splitlines()

    with socket.create_connection(("127.0.0.1", urlsplit(url).port or 0)) as line:
        line.sendall(sent + form.read())
        _until(lambda: counted("apercu_images 1.0"))
    _until(lambda: counted("apercu_images 0.0"))
    assert counted('apercu_requests_total{path="/v1/explain",status="499"} 1.0')


def _until(true) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
