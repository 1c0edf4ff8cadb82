"""Results of trials: rows in a JSON file, and the table of them in the manual."""

from __future__ import annotations

import json
import platform
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import torch

DOCS = Path(__file__).parents[2] / "docs"
ROWS, MANUAL = DOCS / "reliability.json", DOCS / "reliability.md"
TABLE = re.compile("(<!-- table -->\n).*?(<!-- end -->)", re.DOTALL)


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
    lines = ["| trial | promised | found | |", "|---|---|---|---|"]
    for trial, row in json.loads(path.read_text()).items():
        result = "; ".join(f"{name} {value}" for name, value in row["figures"].items())
        kept = "kept" if row["kept"] else "**missed**"
        lines.append(f"| `{trial}` | {row['promise']} | {result} | {kept} |")
    return "\n".join(lines) + "\n"


def update_manual(path: Path = ROWS, manual: Path = MANUAL) -> None:
    """Write the table into the manual, between its two marks."""
    text = manual.read_text()
    manual.write_text(TABLE.sub(lambda found: found[1] + make_table(path) + found[2], text))
