"""Twice as many requests as can be answered, at random times."""

from __future__ import annotations

import statistics
import time

from trials.load_generator import measure_recovery, random_pauses, run_at_rate, spawn_process
from trials.results import TrialResult
from trials.server_process import ServerProcess, run_server
from trials.trial_setup import TrialSetup, has_only

WAIT, BATCH = 0.5, 8
"""Seconds of work that may wait or be in work, where that is more than a batch of so many images;
a longer queue is waited for when the load is over."""
GROWTH, SOON, SLOWER = 1.05, 1.0, 2.0
"""Of memory from the first quarter to the last; seconds to recover; times the usual latency."""


def overload(setup: TrialSetup) -> TrialResult:
    """Expect only 200, 429 and 503, constant memory, and usual latency within a second."""
    with run_server(setup.run) as server:
        capacity = setup.measure_capacity(server)
    queue = max(1, round(capacity * WAIT) - BATCH)
    with run_server(setup.run, "--queue", str(queue)) as server, spawn_process() as probe:
        usual = setup.measure_latency(server)
        end = time.monotonic() + setup.seconds
        pause = random_pauses(2 * capacity, setup.seed)
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
        "asked per second": f"{len(replies) / setup.seconds:.1f}",
        **setup.summarise(replies),
        "MB in the first and last quarter": f"{first:.0f}, {last:.0f}",
        "seconds to recover": f"{soon:.2f}",
    }
    kept = has_only(replies, (200, 429, 503)) and not figures["wrong maps"]
    promise = "twice the capacity: only 200, 429, 503; memory stays; usual again within 1 s"
    return TrialResult(promise, figures, kept and last <= GROWTH * first and soon <= SOON)


def _record_memory(server: ServerProcess, end: float) -> list[float]:
    memory = []
    while time.monotonic() < end:
        memory.append(server.measure_memory())
        time.sleep(0.5)
    return memory
