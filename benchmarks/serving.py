"""What a server costs beside the bare runtime: throughput, tail of the latency, time per request.

    python benchmarks/serving.py [--run RUN] [--seconds 5] [--rounds 5] [--threads N] [--batch 8]

The bare runtime is the same explainer in a process of its own that reads the same pictures,
explains them and writes the same responses in a loop, with the same threads: one at a time and
`--batch` together, and the faster of both counts. Server, callers and bare runtime have a process
each; the bare runtime and the server take turns, and a ratio is the median over the rounds. Without
`--run` weights are random, which does not change the time. At half load requests come evenly. If
they come at random times instead, some wait for others whatever a server does: with one worker
whose work always takes the same time (M/D/1) the ratio is 4.2. That figure is printed beside.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

import torch
from timing import Promise, report_promises
from trials.load_generator import (
    Pause,
    Reply,
    count_statuses,
    make_even_pauses,
    make_random_pauses,
    run_at_rate,
    run_closed_loop,
    spawn_process,
)
from trials.pictures import BareRuntime, make_jpegs, save_untrained_run
from trials.server_process import ServerProcess, run_server

PICTURES = 16
WARM = 1.0
"""Seconds of load before anything is counted."""

_runtime: BareRuntime | None = None


def open_bare(run: Path, threads: int) -> None:
    """Open the explainer, in the bare runtime's process."""
    global _runtime
    _runtime = BareRuntime.open(run, threads)


def measure_bare_rate(pictures: Sequence[bytes], batch: int, seconds: float) -> float:
    """Measure images per second, in the bare runtime's process."""
    return batch / statistics.mean(_time_bare(pictures, batch, seconds))


def measure_bare_seconds(pictures: Sequence[bytes], seconds: float) -> float:
    """Measure the median seconds of one image, in the bare runtime's process."""
    return statistics.median(_time_bare(pictures, 1, seconds))


def _time_bare(pictures: Sequence[bytes], batch: int, seconds: float) -> list[float]:
    """Return the seconds of each batch, in the bare runtime's process."""
    if _runtime is None:
        raise RuntimeError("the bare runtime is not open")
    end, times = time.perf_counter() + seconds, []
    while (started := time.perf_counter()) < end:
        first = len(times) * batch % len(pictures)
        _runtime.explain(pictures[first : first + batch])
        times.append(time.perf_counter() - started)
    return times


@dataclass(frozen=True)
class ServerBenchmark:
    """A server, its clients and the bare runtime.

    Attributes:
        server: the server.
        callers: process of the clients.
        alone: process of the bare runtime.
        batch: images in a batch.
        seconds: length of each measurement.
        pictures: JPEG files that are sent.
    """

    server: ServerProcess
    callers: Pool
    alone: Pool
    batch: int
    seconds: float
    pictures: list[bytes]

    def measure_throughput(self) -> tuple[float, float]:
        """Measure images per second of the bare runtime, and of a server that is never idle."""
        rates = [
            self.alone.apply(measure_bare_rate, (self.pictures, batch, self.seconds))
            for batch in sorted({1, self.batch})
        ]
        replies = self._run_closed_loop(3 * self.batch)
        started = min(reply.started for reply in replies) + WARM
        ended = [end for reply in replies if (end := reply.started + reply.seconds) > started]
        rate = len(ended) / (max(ended) - started)
        print(f"  images per second: bare {max(rates):6.2f}, server {rate:6.2f}")
        return max(rates), rate

    def measure_overhead(self) -> float:
        """Measure the milliseconds of a single request beyond the bare runtime."""
        alone = self.alone.apply(measure_bare_seconds, (self.pictures, self.seconds))
        served = statistics.median(reply.seconds for reply in self._run_closed_loop(1))
        print(f"  ms of one image: bare {1e3 * alone:6.2f}, server {1e3 * served:6.2f}")
        return 1e3 * (served - alone)

    def measure_tail(self, pause: Pause, rounds: int) -> float:
        """Measure the 99th percentile over the median of the latency, in all rounds together."""
        given = (self.server.port, self.pictures, pause, self.seconds * rounds)
        times = statistics.quantiles(_check_answered(self.callers.apply(run_at_rate, given)), n=100)
        shares = ", ".join(f"p{share} {1e3 * times[share - 1]:.1f}" for share in (50, 90, 99))
        print(f"  ms at half load: {shares}")
        return times[98] / times[49]

    def _run_closed_loop(self, callers: int) -> list[Reply]:
        """Return the replies to a number of clients that never pause; all are answers."""
        given = (self.server.port, self.pictures, callers, self.seconds + WARM)
        replies = self.callers.apply(run_closed_loop, given)
        _check_answered(replies)
        return replies


def _check_answered(replies: Sequence[Reply]) -> list[float]:
    """Return the seconds of replies, and check that all of them are answers."""
    if set(counted := count_statuses(replies)) != {200}:
        raise RuntimeError(f"expected answers only, got {counted}")
    return [reply.seconds for reply in replies]


def measure_promises(bench: ServerBenchmark, rounds: int) -> list[Promise]:
    """Measure throughput, tail of the latency and overhead of each request."""
    rates = [bench.measure_throughput() for _ in range(rounds)]
    share = statistics.median(server / alone for alone, server in rates)
    half = statistics.median(server for _, server in rates) / 2
    overhead = statistics.median(bench.measure_overhead() for _ in range(rounds))
    tail = bench.measure_tail(make_even_pauses(half), rounds)
    queued = bench.measure_tail(make_random_pauses(half), rounds)
    print(f"  p99 ÷ median of the latency at half load, at random times: {queued:.2f}")
    return [
        Promise("throughput at saturation ÷ bare runtime", share, 0.90, least=True),
        Promise("p99 ÷ median of the latency at half load", tail, 3),
        Promise("overhead per request, ms", overhead, 3),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    pictures = make_jpegs(PICTURES)
    with (
        tempfile.TemporaryDirectory() as folder,
        spawn_process() as callers,
        spawn_process() as alone,
    ):
        run = given.run or save_untrained_run(Path(folder) / "run")
        alone.apply(open_bare, (run, given.threads))
        threads = str(given.threads)
        with run_server(run, "--batch", str(given.batch), OMP_NUM_THREADS=threads) as server:
            bench = ServerBenchmark(server, callers, alone, given.batch, given.seconds, pictures)
            promises = measure_promises(bench, given.rounds)
    print(f"{given.threads} threads, at most {given.batch} images together")
    return report_promises(promises)


if __name__ == "__main__":
    raise SystemExit(main())
