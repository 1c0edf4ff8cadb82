"""What every trial is given and counts, and its result: a row in JSON and in the manual."""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing.pool import Pool
from pathlib import Path

import torch

from trials.load_generator import Reply, count_statuses, run_closed_loop
from trials.pictures import ExpectedAnswers
from trials.server_process import ServerProcess

DOCS = Path(__file__).parents[2] / "docs" / "reference"
ROWS, MANUAL = DOCS / "reliability.json", DOCS / "reliability.md"
TABLE = re.compile("(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)


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
        return {"responses": text, "wrong maps": self.count_wrong(replies)}

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


@dataclass(frozen=True)
class TrialResult:
    """The result of one trial.

    Attributes:
        promise: in words.
        figures: by what they are.
        kept: whether the promise was.
    """

    promise: str
    figures: Mapping[str, object]
    kept: bool

    def __str__(self) -> str:
        text = "; ".join(f"{name} {value}" for name, value in self.figures.items())
        return f"{self.promise}: {text}{'' if self.kept else '  MISSED'}"


def save_result(trial: str, result: TrialResult, command: str, path: Path = ROWS) -> None:
    """Write the row of a trial into the file, in place of an older one."""
    rows = json.loads(path.read_text()) if path.exists() else {}
    rows[trial] = {
        **asdict(result),
        "command": command,
        "machine": describe_machine(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    path.write_text(json.dumps(rows, indent=1) + "\n")


def describe_machine() -> str:
    """Return processors and PyTorch in words."""
    cpus = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    result = re.findall(r"model name\s*:\s*(.*)", cpus)
    name = result[0] if result else platform.machine()
    return f"{len(result) or 1} × {name}, PyTorch {torch.__version__}"


def make_table(path: Path = ROWS) -> str:
    """Return all rows as Markdown."""
    lines = ["| trial | promised | measured | |", "|---|---|---|---|"]
    for trial, row in json.loads(path.read_text()).items():
        result = "; ".join(f"{name} {value}" for name, value in row["figures"].items())
        kept = "kept" if row["kept"] else "**missed**"
        lines.append(f"| `{trial}` | {row['promise']} | {result} | {kept} |")
    return "\n".join(lines) + "\n"


def update_manual(path: Path = ROWS, manual: Path = MANUAL) -> None:
    """Write the table into the manual, between its two marks."""
    text = manual.read_text()
    manual.write_text(TABLE.sub(lambda found: found[1] + make_table(path) + found[2], text))
