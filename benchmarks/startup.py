"""What starting costs: `apercu --help`, and `import apercu` over `import torch`.

    python benchmarks/startup.py [--repeats N]

Each figure is the median of several fresh processes, with its interquartile range. Imports are
timed inside the process, so what a busy machine does to `import torch` does not blur the rest.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

HELP_LIMIT, IMPORT_LIMIT = 0.5, 0.3
"""Seconds that are promised."""
HELP = "from apercu.cli import main; main(['--help'])"
IMPORTS = """
from time import perf_counter as now
start = now()
import torch
middle = now()
import apercu
end = now()
apercu.MaskExplainer, apercu.open_classifier, apercu.open_images
print(middle - start, end - middle, now() - end)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    repeats = parser.parse_args().repeats
    torch, package, names = zip(*repeat(measure_import, repeats), strict=True)
    to_help = repeat(measure_help, repeats)
    print(f"import torch                      {format_times(torch)}")
    print(f"import apercu after it            {format_times(package)}  at most {IMPORT_LIMIT} s")
    print(f"explainer, classifiers and images {format_times(names)}")
    print(f"apercu --help                     {format_times(to_help)}  at most {HELP_LIMIT} s")
    kept = statistics.median(package) <= IMPORT_LIMIT and statistics.median(to_help) <= HELP_LIMIT
    return 0 if kept else 1


def measure_import() -> tuple[float, ...]:
    """Return the seconds of importing torch, then the package, then the names used first."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(float(word) for word in done.stdout.split())


def measure_help() -> float:
    """Return the seconds that a fresh process takes to show the help."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", HELP], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def repeat(measure: Callable[[], T], repeats: int) -> list[T]:
    """Measure several times; the first one warms the disk cache and is dropped."""
    return [measure() for _ in range(repeats + 1)][1:]


def format_times(times: Sequence[float]) -> str:
    """Return the median of some times, and half their interquartile range."""
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return f"{middle:6.3f} s ± {(high - low) / 2:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
