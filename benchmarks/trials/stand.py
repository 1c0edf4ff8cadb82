"""What a trial is given, and what it counts in the same way as the others."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from multiprocessing.pool import Pool
from pathlib import Path

from trials.callers import Reply, closed, statuses
from trials.pictures import Key
from trials.running import Running


@dataclass(frozen=True)
class Stand:
    """A run folder, pictures with their answers, and a process for callers.

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
    key: Key
    callers: Pool
    seconds: float
    seed: int

    def wrong(self, replies: Iterable[Reply]) -> int:
        """Answers that are not those of the pictures they were asked about."""
        return sum(
            reply.status == 200 and not self.key.right(reply.picture, reply.body)
            for reply in replies
        )

    def counted(self, replies: Sequence[Reply]) -> dict[str, object]:
        """The figures of every trial."""
        told = ", ".join(
            f"{times} × {status or 'cut'}" for status, times in statuses(replies).items()
        )
        return {"answers": told, "wrong maps": self.wrong(replies)}

    def usual(self, server: Running, seconds: float = 3.0) -> float:
        """The median seconds of one request when there is no other."""
        replies = self.callers.apply(closed, (server.port, self.pictures, 1, seconds))
        return statistics.median(reply.seconds for reply in replies)

    def capacity(self, server: Running, callers: int = 24, seconds: float = 6.0) -> float:
        """Answers per second when so many callers never pause."""
        replies = self.callers.apply(closed, (server.port, self.pictures, callers, seconds))
        return sum(reply.status == 200 for reply in replies) / seconds


def proper(replies: Iterable[Reply], allowed: Iterable[int]) -> bool:
    """Whether only these statuses came, and every refusal says when to ask again."""
    known = set(allowed)
    return all(one.status in known and (one.status == 200 or one.retry) for one in replies)
