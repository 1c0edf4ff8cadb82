"""What breaks while a server is asked: its workers, its end, its disk."""

from __future__ import annotations

import statistics
import time

import numpy as np

from trials.callers import Reply, closed
from trials.pictures import encoded
from trials.record import Finding
from trials.running import PATIENCE, running
from trials.stand import Stand, proper

EVERY, CALLERS = 5.0, 8
"""Seconds from one kill to the next; callers meanwhile."""
LARGE = 1500
"""Pixels of the side of a picture that would not be kept in memory by everyone."""


def kills(stand: Stand) -> Finding:
    """No wrong answer while workers are killed one after the other."""
    killed, downs = 0, []
    with running(stand.run, "--workers", "2") as server:
        given = (server.port, stand.pictures, CALLERS, stand.seconds)
        asked = stand.callers.apply_async(closed, given)
        end = time.monotonic() + stand.seconds
        while (begun := time.monotonic()) + EVERY < end:
            time.sleep(EVERY)
            killed += server.kill_worker()
            downs.append(not server.ready())
            time.sleep(max(0.0, begun + EVERY - time.monotonic()))
        replies = asked.get()
        server.wait()
        after = stand.callers.apply(closed, (server.port, stand.pictures, 1, 3.0))
    lost = sum(reply.status != 200 for reply in replies)
    figures = {
        "seconds": f"{stand.seconds:g}",
        "workers killed": f"{killed} of 2 at a time",
        "looks without a worker": f"{sum(downs)} of {len(downs)}",
        **stand.counted(replies),
        "requests failed": f"{lost} of {len(replies)}",
    }
    kept = proper(replies, (200, 503, 504)) and not stand.wrong([*replies, *after])
    healed = all(reply.status == 200 for reply in after)
    promise = "a worker killed every 5 s: no wrong answer, failures are 503 or 504, all well after"
    return Finding(promise, figures, kept and healed and killed > 0)


def sigterm(stand: Stand) -> Finding:
    """What was asked before the signal is answered."""
    before: list[Reply] = []
    codes, takes = [], []
    for _ in range(3):
        with running(stand.run) as server:
            given = (server.port, stand.pictures, CALLERS, stand.seconds + 2)
            asked = stand.callers.apply_async(closed, given)
            time.sleep(stand.seconds)
            told = time.monotonic()
            server.process.terminate()
            codes.append(server.process.wait(PATIENCE))
            takes.append(time.monotonic() - told)
            replies = asked.get()
        before += [reply for reply in replies if reply.begun < told]
    figures = {
        "times": len(codes),
        **stand.counted(before),
        "exit codes": ", ".join(map(str, codes)),
        "seconds to end": f"{statistics.median(takes):.1f}",
    }
    kept = {reply.status for reply in before} == {200} and set(codes) == {0}
    promise = "SIGTERM under load: all that was asked before it is answered, exit code 0"
    return Finding(promise, figures, kept and not figures["wrong maps"])


def disk_full(stand: Stand) -> Finding:
    """A server that can write nothing, neither temporary files nor its log, answers as ever."""
    noise = np.random.default_rng(stand.seed).integers(0, 256, (LARGE, LARGE, 3), np.uint8)
    with running(stand.run, full_disk=True) as server:
        given = (server.port, stand.pictures, CALLERS, stand.seconds)
        replies = stand.callers.apply(closed, given)
        large = stand.callers.apply(closed, (server.port, [encoded(noise, "PNG")], 2, 5.0))
        broken = stand.callers.apply(closed, (server.port, [b"no image"], 1, 2.0))
        after = stand.callers.apply(closed, (server.port, stand.pictures, 1, 3.0))
    figures = {
        "seconds": f"{stand.seconds:g}",
        **stand.counted([*replies, *after]),
        "pictures of 7 MB answered": f"{sum(one.status == 200 for one in large)} of {len(large)}",
        "no images refused": f"{sum(one.status == 422 for one in broken)} of {len(broken)}",
    }
    fine = all(one.status == 200 for one in (*replies, *large, *after))
    kept = fine and all(one.status == 422 for one in broken) and not figures["wrong maps"]
    promise = "no byte can be written, nor logged: every answer as ever"
    return Finding(promise, figures, kept)
