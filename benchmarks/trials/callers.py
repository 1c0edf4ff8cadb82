"""Callers of a server, in a process of their own: so many at once, or at a rate of their own."""

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
    """What came back.

    Attributes:
        picture: which was sent.
        status: 0 where the connection broke.
        begun: when it should have been sent, by the monotonic clock.
        seconds: from then to the last byte.
        body: of the answer.
        retry: whether the answer says when to ask again.
    """

    picture: int
    status: int
    begun: float
    seconds: float
    body: bytes
    retry: bool = False


def form(picture: bytes) -> bytes:
    """A whole request for one explanation."""
    head = b'Content-Disposition: form-data; name="image"; filename="a.jpg"'
    body = b"--%b\r\n%b\r\n\r\n%b\r\n--%b--\r\n" % (BOUNDARY, head, picture, BOUNDARY)
    return request(body, b"multipart/form-data; boundary=" + BOUNDARY)


def request(body: bytes, kind: bytes) -> bytes:
    """POST /v1/explain."""
    head = b"POST /v1/explain HTTP/1.1\r\nHost: apercu\r\n"
    return head + b"Content-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(body)) + body


class Line:
    """One connection, opened again where it broke, or might be closed after an idle time."""

    bodies: ClassVar[dict[bytes, bytes]] = {}
    """Answers that have come before; ten minutes of them are mostly the same."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self.used = 0.0

    async def ask(self, sent: bytes) -> tuple[int, bool, bytes]:
        """Status, whether there is a Retry-After, body."""
        try:
            if time.monotonic() > self.used + IDLE:
                self.close()
            if self.streams is None:
                self.streams = await asyncio.open_connection(HOST, self.port)
            reader, writer = self.streams
            writer.write(sent)
            await writer.drain()
            status, retry, body = await asyncio.wait_for(answer(reader), PATIENCE)
            self.used = time.monotonic()
            return status, retry, self.bodies.setdefault(body, body)
        except (OSError, EOFError, TimeoutError):
            self.close()
            return BROKEN, False, b""

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
        self.streams = None


async def answer(reader: asyncio.StreamReader) -> tuple[int, bool, bytes]:
    """Status, whether there is a Retry-After, body of what comes next."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    status = int(head[9:12])
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0] or 0)
    return status, b"\r\nretry-after:" in head, await reader.readexactly(length)


def closed(port: int, pictures: Sequence[bytes], callers: int, seconds: float) -> list[Reply]:
    """So many callers, each of whom asks again as soon as it is answered."""
    sent = [form(picture) for picture in pictures]
    replies: list[Reply] = []

    async def call(number: int) -> None:
        line, turn = Line(port), number
        while time.monotonic() < end:
            picture, begun = turn % len(sent), time.monotonic()
            status, retry, body = await line.ask(sent[picture])
            taken = time.monotonic() - begun
            replies.append(Reply(picture, status, begun, taken, body, retry))
            turn += callers
        line.close()

    async def crowd() -> None:
        await asyncio.gather(*map(call, range(callers)))

    end = time.monotonic() + seconds
    asyncio.run(crowd())
    return replies


Pause = Callable[[], float]
"""Seconds from one request to the next."""


def even(rate: float) -> Pause:
    """So many requests per second, one like the other."""
    return partial(float, 1 / rate)


def at_random(rate: float, seed: int = 0) -> Pause:
    """So many requests per second, as from callers who know nothing of each other."""
    return partial(random.Random(seed).expovariate, rate)


def paced(port: int, pictures: Sequence[bytes], pause: Pause, seconds: float) -> list[Reply]:
    """Requests at their own times, whether or not the others are answered."""
    sent = [form(picture) for picture in pictures]
    replies: list[Reply] = []
    idle: list[Line] = []

    async def call(picture: int, begun: float) -> None:
        line = idle.pop() if idle else Line(port)
        status, retry, body = await line.ask(sent[picture])
        replies.append(Reply(picture, status, begun, time.monotonic() - begun, body, retry))
        idle.append(line)

    async def crowd() -> None:
        due, end = time.monotonic(), time.monotonic() + seconds
        async with asyncio.TaskGroup() as tasks:
            for turn in count():
                if (due := due + pause()) > end:
                    break
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                tasks.create_task(call(turn % len(sent), due))
        for line in idle:
            line.close()

    asyncio.run(crowd())
    return replies


def recovered(port: int, picture: bytes, since: float, usual: float) -> float:
    """Seconds from a time on to the first answer that took no longer than is usual."""

    async def probe() -> float:
        line, sent = Line(port), form(picture)
        while time.monotonic() < since + PATIENCE:
            begun = time.monotonic()
            status, _, _ = await line.ask(sent)
            ended = time.monotonic()
            if status == 200 and ended - begun <= usual:
                break
            await asyncio.sleep(0.02)
        line.close()
        return ended - since

    time.sleep(max(0.0, since - time.monotonic()))
    return asyncio.run(probe())


def statuses(replies: Sequence[Reply]) -> dict[int, int]:
    """How many replies have which status."""
    return dict(sorted(Counter(reply.status for reply in replies).items()))


def apart() -> Pool:
    """A process for callers, or for what else must not share one with its neighbour."""
    return get_context("spawn").Pool(1)
