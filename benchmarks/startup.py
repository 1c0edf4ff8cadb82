"""What starting costs: `apercu --help`, and `import apercu` over `import torch`.

    python benchmarks/startup.py [--repeats N]

Each figure is the median of several fresh processes, with its interquartile range. The two imports
take turns, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

HELP_LIMIT, IMPORT_LIMIT = 0.5, 0.3
"""Seconds that are promised."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    python = [sys.executable, "-c"]
    torch, apercu, help_ = taking_turns(
        [
            [*python, "import torch"],
            [*python, "import torch, apercu"],
            [*python, "from apercu.cli import main; main(['--help'])"],
        ],
        repeats,
    )
    over = [second - first for first, second in zip(torch, apercu, strict=True)]
    print(f"import torch           {shown(torch)}")
    print(f"import torch, apercu   {shown(apercu)}")
    print(f"apercu over torch      {shown(over)}  at most {IMPORT_LIMIT} s")
    print(f"apercu --help          {shown(help_)}  at most {HELP_LIMIT} s")
    kept = statistics.median(over) <= IMPORT_LIMIT and statistics.median(help_) <= HELP_LIMIT
    return 0 if kept else 1


def taking_turns(commands: Sequence[Sequence[str]], repeats: int) -> list[list[float]]:
    """Seconds of each command, run one after the other; the first round warms the disk cache."""
    rounds = [[seconds(command) for command in commands] for _ in range(repeats + 1)]
    return [list(times) for times in zip(*rounds[1:], strict=True)]


def seconds(command: Sequence[str]) -> float:
    """Wall-clock time of a fresh process."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def shown(times: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return f"{middle:6.3f} s ± {(high - low) / 2:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
