"""Callers who hang up, and callers who send a byte at a time, beside callers who do neither."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from trials.callers import HOST, Line, answer, apart, closed, form
from trials.record import Finding
from trials.running import Running, running
from trials.stand import Stand

HONEST, RUDE, SLOW = 4, 16, 96
"""Callers of each kind."""
DEADLINE, LINGER, PIECE = 5.0, 10.0, 0.25
"""Seconds: for an answer; for what is left of a body that was answered; from byte to byte."""
BEGUN = 2.0
"""Seconds until all slow callers are there."""
BEHIND, BATCH = 60, 8
"""Requests that hang up at once, before an honest one; images that are in work meanwhile."""


def disconnects(stand: Stand) -> Finding:
    """Who hangs up costs the others nothing that was not in work already."""
    with running(stand.run) as server, apart() as rude:
        usual = stand.usual(server)
        asked = rude.apply_async(
            hang_up, (server.port, stand.pictures[0], stand.seconds, stand.seed)
        )
        given = (server.port, stand.pictures, HONEST, stand.seconds)
        replies = stand.callers.apply(closed, given)
        gone = asked.get()
        forgotten = _forgotten(server)
        behind = asyncio.run(_behind(server.port, stand.pictures[0]))
    figures = {
        "seconds": f"{stand.seconds:g}",
        "hung up": gone,
        **stand.counted(replies),
        "seconds until none of them is held": f"{forgotten:.2f}",
        f"ms of one image behind {BEHIND} that hung up": f"{1e3 * behind:.0f}",
        "ms of one image alone": f"{1e3 * usual:.0f}",
    }
    fine = all(reply.status == 200 for reply in replies) and not figures["wrong maps"]
    soon = forgotten <= 1 and behind <= 2 * (BATCH + 1) * usual + 0.25
    promise = "callers hang up: the others are answered, nothing is begun for those who have gone"
    return Finding(promise, figures, fine and soon)


def slow(stand: Stand) -> Finding:
    """Who sends a byte at a time is answered 504 at the deadline, or 503 before, and holds up
    nobody, though there are more of them than places."""
    with running(stand.run, "--deadline", f"{DEADLINE:g}") as server, apart() as slowly:
        alone = stand.capacity(server, HONEST)
        asked = slowly.apply_async(dribble, (server.port, stand.pictures[0], stand.seconds + BEGUN))
        time.sleep(BEGUN)
        given = (server.port, stand.pictures, HONEST, stand.seconds)
        replies = stand.callers.apply(closed, given)
        found, longest = asked.get()
    share = len(replies) / stand.seconds / alone
    figures = {
        "seconds": f"{stand.seconds:g}",
        "slow callers at a time": SLOW,
        "what they were told": ", ".join(f"{n} × {code}" for code, n in sorted(found.items())),
        "seconds that one lasted at most": f"{longest:.1f}",
        **stand.counted(replies),
        "of the usual throughput": f"{share:.2f}",
    }
    fine = all(reply.status == 200 for reply in replies) and not figures["wrong maps"]
    ended = set(found) <= {503, 504} and longest < DEADLINE + LINGER + 2
    promise = (
        "a byte every 0.25 s: 504 at the deadline or 503, hung up on 10 s later; others answered"
    )
    return Finding(promise, figures, fine and ended and share > 0.8)


def hang_up(port: int, picture: bytes, seconds: float, seed: int) -> int:
    """How many requests were given up within 0.2 s of being sent."""
    draw, sent, times = random.Random(seed), form(picture), 0

    async def call() -> None:
        nonlocal times
        while time.monotonic() < end:
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(sent[: draw.choice((len(sent), len(sent), draw.randrange(len(sent))))])
            await writer.drain()
            await asyncio.sleep(draw.uniform(0, 0.2))
            writer.transport.abort()
            times += 1

    async def crowd() -> None:
        await asyncio.gather(*(call() for _ in range(RUDE)))

    end = time.monotonic() + seconds
    asyncio.run(crowd())
    return times


def dribble(port: int, picture: bytes, seconds: float) -> tuple[Counter[int], float]:
    """Statuses that slow callers were told, and the longest time one was let go on."""
    sent, found, longest = form(picture), Counter[int](), 0.0

    async def call() -> None:
        nonlocal longest
        while time.monotonic() < end:
            begun = time.monotonic()
            reader, writer = await asyncio.open_connection(HOST, port)
            head = sent.index(b"\r\n\r\n") + 4
            writer.write(sent[:head])
            told = asyncio.ensure_future(answer(reader))
            try:
                for place in range(head, len(sent)):
                    writer.write(sent[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(PIECE)
                    if told.done() and reader.at_eof():
                        break
            except OSError:
                pass
            found[(await told)[0]] += 1
            longest = max(longest, time.monotonic() - begun)
            writer.close()

    async def crowd() -> None:
        await asyncio.gather(*(call() for _ in range(SLOW)))

    end = time.monotonic() + seconds
    asyncio.run(crowd())
    return found, longest


def _forgotten(server: Running) -> float:
    """Seconds until the server holds no image any more."""
    begun = time.monotonic()
    while server.counter("apercu_images") and time.monotonic() < begun + 30:
        time.sleep(0.02)
    return time.monotonic() - begun


async def _behind(port: int, picture: bytes) -> float:
    """Seconds of a request behind many that hang up."""
    sent = form(picture)
    lines = [await asyncio.open_connection(HOST, port) for _ in range(BEHIND)]
    for _, writer in lines:
        writer.write(sent)
    await asyncio.sleep(0.2)
    for _, writer in lines:
        writer.transport.abort()
    line, begun = Line(port), time.monotonic()
    status, _, _ = await line.ask(sent)
    line.close()
    return time.monotonic() - begun if status == 200 else float("inf")
