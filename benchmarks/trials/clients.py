"""Too many clients; clients that disconnect, or send a byte at a time, beside ordinary ones."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections import Counter

from trials.load_generator import (
    HOST,
    Connection,
    make_form,
    make_random_pauses,
    measure_recovery,
    read_response,
    run_at_rate,
    run_closed_loop,
    spawn_process,
)
from trials.server_process import ServerProcess, run_server
from trials.trial import TrialResult, TrialSetup, has_only

ORDINARY, ABORTING, SLOW = 4, 16, 96
"""Number of clients of each kind."""
DEADLINE, LINGER, PIECE = 5.0, 10.0, 0.25
"""Seconds: for an answer; for what is left of a body that was answered; from byte to byte."""
BEGUN = 2.0
"""Seconds until all slow callers are there."""
BEHIND, BATCH = 60, 8
"""Requests that disconnect at once, before an ordinary one; images that are in work meanwhile."""
WAIT, IN_WORK = 0.5, 8
"""Seconds of work that may wait or be in work, where that is more than a batch of so many images;
a longer queue is waited for when the load is over."""
GROWTH, SOON, SLOWER = 1.05, 1.0, 2.0
"""Of memory from the first quarter to the last; seconds to recover; times the usual latency."""


def overload(setup: TrialSetup) -> TrialResult:
    """Expect only 200, 429 and 503, constant memory, and usual latency within a second."""
    with run_server(setup.run) as server:
        capacity = setup.measure_capacity(server)
    queue = max(1, round(capacity * WAIT) - IN_WORK)
    with run_server(setup.run, "--queue", str(queue)) as server, spawn_process() as probe:
        usual = setup.measure_latency(server)
        end = time.monotonic() + setup.seconds
        pause = make_random_pauses(2 * capacity, setup.seed)
        given = (server.port, setup.pictures, pause, setup.seconds)
        load = setup.callers.apply_async(run_at_rate, given)
        again = (server.port, setup.pictures[0], end, SLOWER * usual)
        recovery = probe.apply_async(measure_recovery, again)
        memory = _record_memory(server, end)
        replies, soon = load.get(), recovery.get()
    quarter = len(memory) // 4
    first, last = (statistics.median(part) for part in (memory[:quarter], memory[-quarter:]))
    figures = {
        "seconds": f"{setup.seconds:g}",
        "capacity per second": f"{capacity:.1f}",
        "requests per second": f"{len(replies) / setup.seconds:.1f}",
        **setup.summarise(replies),
        "MB in the first and last quarter": f"{first:.0f}, {last:.0f}",
        "seconds to recover": f"{soon:.2f}",
    }
    kept = has_only(replies, (200, 429, 503)) and not figures["wrong maps"]
    promise = (
        "requests at twice the capacity: only statuses 200, 429 and 503; memory does not grow; "
        "usual response time within 1 s"
    )
    return TrialResult(promise, figures, kept and last <= GROWTH * first and soon <= SOON)


def _record_memory(server: ServerProcess, end: float) -> list[float]:
    memory = []
    while time.monotonic() < end:
        memory.append(server.measure_memory())
        time.sleep(0.5)
    return memory


def disconnect_clients(setup: TrialSetup) -> TrialResult:
    """Expect that clients that disconnect cost the others only what was in work already."""
    with run_server(setup.run) as server, spawn_process() as aborting:
        usual = setup.measure_latency(server)
        load = aborting.apply_async(
            disconnect_early, (server.port, setup.pictures[0], setup.seconds, setup.seed)
        )
        given = (server.port, setup.pictures, ORDINARY, setup.seconds)
        replies = setup.callers.apply(run_closed_loop, given)
        gone = load.get()
        forgotten = _measure_release(server)
        behind = asyncio.run(_measure_behind(server.port, setup.pictures[0]))
    figures = {
        "seconds": f"{setup.seconds:g}",
        "disconnected clients": gone,
        **setup.summarise(replies),
        "seconds until none of their images is in the queue": f"{forgotten:.2f}",
        f"ms of one image behind {BEHIND} of disconnected clients": f"{1e3 * behind:.0f}",
        "ms of one image alone": f"{1e3 * usual:.0f}",
    }
    fine = all(reply.status == 200 for reply in replies) and not figures["wrong maps"]
    soon = forgotten <= 1 and behind <= 2 * (BATCH + 1) * usual + 0.25
    promise = (
        "clients disconnect: other clients get responses, and no work begins for the disconnected "
        "ones"
    )
    return TrialResult(promise, figures, fine and soon)


def upload_slowly(setup: TrialSetup) -> TrialResult:
    """Expect 504 at the deadline, or 503 before it, for clients that send a byte at a time.

    The others are answered, though there are more slow clients than places.
    """
    with run_server(setup.run, "--deadline", f"{DEADLINE:g}") as server, spawn_process() as slow:
        alone = setup.measure_capacity(server, ORDINARY)
        load = slow.apply_async(
            send_slowly, (server.port, setup.pictures[0], setup.seconds + BEGUN)
        )
        time.sleep(BEGUN)
        given = (server.port, setup.pictures, ORDINARY, setup.seconds)
        replies = setup.callers.apply(run_closed_loop, given)
        result, longest = load.get()
    share = len(replies) / setup.seconds / alone
    figures = {
        "seconds": f"{setup.seconds:g}",
        "slow clients at a time": SLOW,
        "their responses": ", ".join(f"{n} × {code}" for code, n in sorted(result.items())),
        "longest of them in seconds": f"{longest:.1f}",
        **setup.summarise(replies),
        "throughput, as a multiple of the usual one": f"{share:.2f}",
    }
    fine = all(reply.status == 200 for reply in replies) and not figures["wrong maps"]
    ended = set(result) <= {503, 504} and longest < DEADLINE + LINGER + 2
    promise = (
        "clients send a byte every 0.25 s: 504 at the deadline or 503, disconnected 10 s later; "
        "other clients get responses"
    )
    return TrialResult(promise, figures, fine and ended and share > 0.8)


def disconnect_early(port: int, picture: bytes, seconds: float, seed: int) -> int:
    """Disconnect within 0.2 s of each request; return the number of requests."""
    draw, sent, times = random.Random(seed), make_form(picture), 0

    async def abort_requests() -> None:
        nonlocal times
        while time.monotonic() < end:
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(sent[: draw.choice((len(sent), len(sent), draw.randrange(len(sent))))])
            await writer.drain()
            await asyncio.sleep(draw.uniform(0, 0.2))
            writer.transport.abort()
            times += 1

    async def run_all() -> None:
        await asyncio.gather(*(abort_requests() for _ in range(ABORTING)))

    end = time.monotonic() + seconds
    asyncio.run(run_all())
    return times


def send_slowly(port: int, picture: bytes, seconds: float) -> tuple[Counter[int], float]:
    """Return the statuses that slow clients got, and the seconds of the longest connection."""
    sent, counts, longest = make_form(picture), Counter[int](), 0.0

    async def send_bytes() -> None:
        nonlocal longest
        while time.monotonic() < end:
            started = time.monotonic()
            reader, writer = await asyncio.open_connection(HOST, port)
            head = sent.index(b"\r\n\r\n") + 4
            writer.write(sent[:head])
            response = asyncio.ensure_future(read_response(reader))
            try:
                for index in range(head, len(sent)):
                    writer.write(sent[index : index + 1])
                    await writer.drain()
                    await asyncio.sleep(PIECE)
                    if response.done() and reader.at_eof():
                        break
            except OSError:
                pass
            counts[(await response)[0]] += 1
            longest = max(longest, time.monotonic() - started)
            writer.close()

    async def run_all() -> None:
        await asyncio.gather(*(send_bytes() for _ in range(SLOW)))

    end = time.monotonic() + seconds
    asyncio.run(run_all())
    return counts, longest


def _measure_release(server: ServerProcess) -> float:
    """Measure the seconds until the server holds no image any more."""
    started = time.monotonic()
    while server.read_metric("apercu_images") and time.monotonic() < started + 30:
        time.sleep(0.02)
    return time.monotonic() - started


async def _measure_behind(port: int, picture: bytes) -> float:
    """Measure the seconds of a request behind many whose clients disconnect."""
    sent = make_form(picture)
    lines = [await asyncio.open_connection(HOST, port) for _ in range(BEHIND)]
    for _, writer in lines:
        writer.write(sent)
    await asyncio.sleep(0.2)
    for _, writer in lines:
        writer.transport.abort()
    line, started = Connection(port), time.monotonic()
    status, _, _ = await line.send(sent)
    line.close()
    return time.monotonic() - started if status == 200 else float("inf")
