"""What every trial is given, and what all of them count."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

from trials.load_generator import Reply, count_statuses, run_closed_loop
from trials.pictures import ExpectedAnswers
from trials.server_process import ServerProcess


@dataclass(frozen=True)
class TrialSetup:
    """A run folder, pictures with their answers, and a process for clients.

    Attributes:
        run: folder.
        pictures: files.
        key: the right answers.
        callers: a process.
        seconds: how long the trial lasts.
        seed: of everything that is drawn.
    """

    run: Path
    pictures: list[bytes]
    key: ExpectedAnswers
    callers: Pool
    seconds: float
    seed: int

    def count_wrong(self, replies: Iterable[Reply]) -> int:
        """Count the answers that are not those of their pictures."""
        return sum(
            reply.status == 200 and not self.key.is_right(reply.picture, reply.body)
            for reply in replies
        )

    def summarise(self, replies: Sequence[Reply]) -> dict[str, object]:
        """Return the figures that every trial has."""
        text = ", ".join(
            f"{times} × {status or 'cut'}" for status, times in count_statuses(replies).items()
        )
        return {"answers": text, "wrong maps": self.count_wrong(replies)}

    def measure_latency(self, server: ServerProcess, seconds: float = 3.0) -> float:
        """Measure the median seconds of a request when there is no other."""
        replies = self.callers.apply(run_closed_loop, (server.port, self.pictures, 1, seconds))
        return statistics.median(reply.seconds for reply in replies)

    def measure_capacity(
        self, server: ServerProcess, callers: int = 24, seconds: float = 6.0
    ) -> float:
        """Measure the answers per second when a number of clients never pause."""
        replies = self.callers.apply(
            run_closed_loop, (server.port, self.pictures, callers, seconds)
        )
        return sum(reply.status == 200 for reply in replies) / seconds


def has_only(replies: Iterable[Reply], allowed: Iterable[int]) -> bool:
    """Whether only these statuses came, and every refusal says when to ask again."""
    names = set(allowed)
    return all(one.status in names and (one.status == 200 or one.retry) for one in replies)
