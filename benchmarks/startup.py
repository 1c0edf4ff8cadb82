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
    torch, package, names = zip(*repeated(import_seconds, repeats), strict=True)
    help_ = repeated(help_seconds, repeats)
    print(f"import torch                      {shown(torch)}")
    print(f"import apercu after it            {shown(package)}  at most {IMPORT_LIMIT} s")
    print(f"explainer, classifiers and images {shown(names)}")
    print(f"apercu --help                     {shown(help_)}  at most {HELP_LIMIT} s")
    kept = statistics.median(package) <= IMPORT_LIMIT and statistics.median(help_) <= HELP_LIMIT
    return 0 if kept else 1


def import_seconds() -> tuple[float, ...]:
    """Importing torch, then the package, then the names that people use first."""
    command = [sys.executable, "-c", IMPORTS]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return tuple(float(word) for word in done.stdout.split())


def help_seconds() -> float:
    """A fresh process that shows the help."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", HELP], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def repeated(measure: Callable[[], T], repeats: int) -> list[T]:
    """Several measurements; the first one warms the disk cache and is dropped."""
    return [measure() for _ in range(repeats + 1)][1:]


def shown(times: Sequence[float]) -> str:
    low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
    return f"{middle:6.3f} s ± {(high - low) / 2:.3f}"


if __name__ == "__main__":
    raise SystemExit(main())
