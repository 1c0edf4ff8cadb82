"""Faults under load: workers are killed, the server is terminated, the disk is full."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from trials.load_generator import Reply, run_closed_loop
from trials.pictures import encode
from trials.server_process import PATIENCE, run_server
from trials.trial import TrialResult, TrialSetup, has_only

EVERY, CALLERS = 5.0, 8
"""Seconds from one kill to the next; callers meanwhile."""
LARGE = 1500
"""Pixels of the side of a picture that would not be kept in memory by everyone."""


def kill_workers(setup: TrialSetup) -> TrialResult:
    """Expect no wrong answer while workers are killed one after the other."""
    killed, downs = 0, []
    with run_server(setup.run, "--workers", "2") as server:
        given = (server.port, setup.pictures, CALLERS, setup.seconds)
        load = setup.callers.apply_async(run_closed_loop, given)
        end = time.monotonic() + setup.seconds
        while (started := time.monotonic()) + EVERY < end:
            time.sleep(EVERY)
            killed += server.kill_worker()
            downs.append(not server.is_ready())
            time.sleep(max(0.0, started + EVERY - time.monotonic()))
        replies = load.get()
        server.wait_until_ready()
        after = setup.callers.apply(run_closed_loop, (server.port, setup.pictures, 1, 3.0))
    lost = sum(reply.status != 200 for reply in replies)
    figures = {
        "seconds": f"{setup.seconds:g}",
        "workers killed": f"{killed} of 2 at a time",
        "checks that found no worker": f"{sum(downs)} of {len(downs)}",
        **setup.summarise(replies),
        "requests failed": f"{lost} of {len(replies)}",
    }
    kept = has_only(replies, (200, 503, 504)) and not setup.count_wrong([*replies, *after])
    healed = all(reply.status == 200 for reply in after)
    promise = (
        "a worker is killed every 5 s: no wrong map, failures are 503 or 504, all workers run "
        "afterwards"
    )
    return TrialResult(promise, figures, kept and healed and killed > 0)


def terminate_under_load(setup: TrialSetup) -> TrialResult:
    """Expect an answer to every request that was sent before the signal."""
    before: list[Reply] = []
    codes, takes = [], []
    for _ in range(3):
        with run_server(setup.run) as server:
            given = (server.port, setup.pictures, CALLERS, setup.seconds + 2)
            load = setup.callers.apply_async(run_closed_loop, given)
            time.sleep(setup.seconds)
            reported_at = time.monotonic()
            server.process.terminate()
            codes.append(server.process.wait(PATIENCE))
            takes.append(time.monotonic() - reported_at)
            replies = load.get()
        before += [reply for reply in replies if reply.started < reported_at]
    figures = {
        "times": len(codes),
        **setup.summarise(before),
        "exit codes": ", ".join(map(str, codes)),
        "seconds to end": f"{statistics.median(takes):.1f}",
    }
    kept = {reply.status for reply in before} == {200} and set(codes) == {0}
    promise = "SIGTERM under load: all earlier requests get their response, exit code 0"
    return TrialResult(promise, figures, kept and not figures["wrong maps"])


def run_on_full_disk(setup: TrialSetup) -> TrialResult:
    """Expect the usual answers of a server that can write neither temporary files nor its log."""
    noise = np.random.default_rng(setup.seed).integers(0, 256, (LARGE, LARGE, 3), np.uint8)
    with run_server(setup.run, full_disk=True) as server:
        given = (server.port, setup.pictures, CALLERS, setup.seconds)
        replies = setup.callers.apply(run_closed_loop, given)
        large = setup.callers.apply(run_closed_loop, (server.port, [encode(noise, "PNG")], 2, 5.0))
        broken = setup.callers.apply(run_closed_loop, (server.port, [b"no image"], 1, 2.0))
        after = setup.callers.apply(run_closed_loop, (server.port, setup.pictures, 1, 3.0))
    figures = {
        "seconds": f"{setup.seconds:g}",
        **setup.summarise([*replies, *after]),
        "responses to pictures of 7 MB": _describe_count(large, 200),
        "files that are no images, refused": _describe_count(broken, 422),
    }
    fine = all(one.status == 200 for one in (*replies, *large, *after))
    kept = fine and all(one.status == 422 for one in broken) and not figures["wrong maps"]
    promise = "no byte can be written, not even to the log: every response is as usual"
    return TrialResult(promise, figures, kept)


def _describe_count(replies: Sequence[Reply], status: int) -> str:
    """Return how many replies have a status, in words."""
    return f"{sum(one.status == status for one in replies)} of {len(replies)}"
