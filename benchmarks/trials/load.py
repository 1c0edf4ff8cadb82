"""Twice as many requests as can be answered, at random times."""

from __future__ import annotations

import statistics
import time

from trials.callers import apart, at_random, paced, recovered
from trials.record import Finding
from trials.running import Running, running
from trials.stand import Stand, proper

WAIT, BATCH = 0.5, 8
"""Seconds of work that may wait or be in work, where that is more than a batch of so many images;
a longer queue is waited for when the load is over."""
GROWTH, SOON, SLOWER = 1.05, 1.0, 2.0
"""Of memory from the first quarter to the last; seconds to recover; times the usual latency."""


def load(stand: Stand) -> Finding:
    """Only 200, 429 and 503, memory that stays, answers as usual within a second."""
    with running(stand.run) as server:
        capacity = stand.capacity(server)
    queue = max(1, round(capacity * WAIT) - BATCH)
    with running(stand.run, "--queue", str(queue)) as server, apart() as probe:
        usual = stand.usual(server)
        end = time.monotonic() + stand.seconds
        pause = at_random(2 * capacity, stand.seed)
        given = (server.port, stand.pictures, pause, stand.seconds)
        asked = stand.callers.apply_async(paced, given)
        again = (server.port, stand.pictures[0], end, SLOWER * usual)
        recovery = probe.apply_async(recovered, again)
        held = _memory(server, end)
        replies, soon = asked.get(), recovery.get()
    quarter = len(held) // 4
    first, last = (statistics.median(part) for part in (held[:quarter], held[-quarter:]))
    figures = {
        "seconds": f"{stand.seconds:g}",
        "capacity per second": f"{capacity:.1f}",
        "asked per second": f"{len(replies) / stand.seconds:.1f}",
        **stand.counted(replies),
        "MB in the first and last quarter": f"{first:.0f}, {last:.0f}",
        "seconds to recover": f"{soon:.2f}",
    }
    kept = proper(replies, (200, 429, 503)) and not figures["wrong maps"]
    promise = "twice the capacity: only 200, 429, 503; memory stays; usual again within 1 s"
    return Finding(promise, figures, kept and last <= GROWTH * first and soon <= SOON)


def _memory(server: Running, end: float) -> list[float]:
    held = []
    while time.monotonic() < end:
        held.append(server.memory())
        time.sleep(0.5)
    return held
