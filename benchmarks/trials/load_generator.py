"""Clients of a server, in a process of their own: a number of them at once, or at a fixed rate."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing import get_context
from multiprocessing.pool import Pool
from typing import ClassVar

HOST = "127.0.0.1"
BOUNDARY = b"a-line-between-the-parts"
PATIENCE, IDLE = 60.0, 3.0
BROKEN = 0
"""The status of a request whose connection broke."""


@dataclass(frozen=True)
class Reply:
    """The reply to one request.

    Attributes:
        picture: index of the picture that was sent.
        status: 0 where the connection broke.
        started: when it should have been sent, by the monotonic clock.
        seconds: from then to the last byte.
        body: of the answer.
        retry: whether the answer has a Retry-After.
    """

    picture: int
    status: int
    started: float
    seconds: float
    body: bytes
    retry: bool = False


def make_form(picture: bytes) -> bytes:
    """Return a whole request for one explanation."""
    head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY, head, picture, BOUNDARY)
    return make_request(body, b"multipart/form-data; boundary=" + BOUNDARY)


def make_request(body: bytes, kind: bytes) -> bytes:
    """Return a request to POST /v1/explain."""
    head = b"POST /v1/explain HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    return head + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)) + body


class Connection:
    """One connection; it is opened again when it broke, or when the server may have closed it."""

    bodies: ClassVar[dict[bytes, bytes]] = {}
    """Bodies that have come before: most are equal, and each is kept once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.last_used = 0.0

    async def send(self, sent: bytes) -> tuple[int, bool, bytes]:
        """Send a request; return status, whether there is a Retry-After, and body."""
        try:
            if time.monotonic() > self.last_used + IDLE:
                self.close()
            if self.streams is None:
                self.streams = await asyncio.open_connection(HOST, self.port)
            reader, writer = self.streams
            writer.write(sent)
            await writer.drain()
            status, retry, body = await asyncio.wait_for(read_response(reader), PATIENCE)
            self.last_used = time.monotonic()
            return status, retry, self.bodies.setdefault(body, body)
        except (OSError, EOFError, TimeoutError):
            self.close()
            return BROKEN, False, b""

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


async def read_response(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Read a response: status, whether there is a Retry-After, and body."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    return status, b"\r\nretry-after:" in head, await reader.readexactly(length)


def run_closed_loop(
    port: int, pictures: Sequence[bytes], callers: int, seconds: float
) -> list[Reply]:
    """Run a number of clients, each of which sends again as soon as it is answered."""
    sent = [make_form(picture) for picture in pictures]
    replies: list[Reply] = []

    async def send_again(number: int) -> None:
        line, turn = Connection(port), number
        while time.monotonic() < end:
            picture, started = turn % len(sent), time.monotonic()
            status, retry, body = await line.send(sent[picture])
            elapsed = time.monotonic() - started
            replies.append(Reply(picture, status, started, elapsed, body, retry))
            turn += callers
        line.close()

    async def run_all() -> None:
        await asyncio.gather(*map(send_again, range(callers)))

    end = time.monotonic() + seconds
    asyncio.run(run_all())
    return replies


Pause = Callable[[], float]
"""Seconds from one request to the next."""


def make_even_pauses(rate: float) -> Pause:
    """Return equal pauses, for a number of requests per second."""
    return partial(float, 1 / rate)


def make_random_pauses(rate: float, seed: int = 0) -> Pause:
    """Return random pauses, as of clients that are independent of each other."""
    return partial(random.Random(seed).expovariate, rate)


def run_at_rate(port: int, pictures: Sequence[bytes], pause: Pause, seconds: float) -> list[Reply]:
    """Send requests after pauses, whether or not the ones before are answered."""
    sent = [make_form(picture) for picture in pictures]
    replies: list[Reply] = []
    idle: list[Connection] = []

    async def send_one(picture: int, started: float) -> None:
        line = idle.pop() if idle else Connection(port)
        status, retry, body = await line.send(sent[picture])
        replies.append(Reply(picture, status, started, time.monotonic() - started, body, retry))
        idle.append(line)

    async def send_all() -> None:
        due, end = time.monotonic(), time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for turn in count():
                if (due := due + pause()) > end:
                    break
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(send_one(turn % len(sent), due))
        for line in idle:
            line.close()

    asyncio.run(send_all())
    return replies


def measure_recovery(port: int, picture: bytes, since: float, usual: float) -> float:
    """Measure the seconds from a time on to the first answer that takes no longer than usual."""

    async def wait_for_answer() -> float:
        line, sent = Connection(port), make_form(picture)
        while time.monotonic() < since + PATIENCE:
            started = time.monotonic()
            status, _, _ = await line.send(sent)
            ended = time.monotonic()
            if status == 200 and ended - started <= usual:
                break
            await asyncio.sleep(0.02)
        line.close()
        return ended - since

    time.sleep(max(0.0, since - time.monotonic()))
    return asyncio.run(wait_for_answer())


def count_statuses(replies: Sequence[Reply]) -> dict[int, int]:
    """Count the replies of each status."""
    return dict(sorted(Counter(reply.status for reply in replies).items()))


def spawn_process() -> Pool:
    """Return a process for clients, or for what must not share a process."""
    return get_context("spawn").Pool(1)
