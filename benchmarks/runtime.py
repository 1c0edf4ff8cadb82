"""What apercu-runtime takes: seconds to import, and room on the disk with all it needs.

    python benchmarks/runtime.py [--repeats 7]

Imports are timed inside fresh processes, the first of which is dropped. The room is that of the
files that the installed distributions list, compiled Python included.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SECONDS, MEGABYTES = 1.0, 250
NEEDED = ("numpy", "pillow", "onnxruntime")
IMPORT = """
from time import perf_counter as now
start = now()
import apercu_runtime, onnxruntime
print(now() - start)
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    seconds = [measure_import() for _ in range(parser.parse_args().repeats + 1)][1:]
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    print(
        f"import apercu_runtime and onnxruntime  {middle:6.3f} s ± {(high - low) / 2:.3f}  "
        f"at most {SECONDS} s"
    )
    sizes = {name: measure_distribution(name) for name in list_distributions(NEEDED)}
    sizes["apercu-runtime"] = measure_folder(ROOT / "runtime" / "apercu_runtime")
    for name, size in sorted(sizes.items(), key=lambda one: -one[1]):
        print(f"  {name:<20} {size:7.1f} MB")
    total = sum(sizes.values())
    print(f"installed                              {total:6.0f} MB       at most {MEGABYTES} MB")
    return 0 if middle <= SECONDS and total <= MEGABYTES else 1


def measure_import() -> float:
    """Return the seconds that a fresh process takes to import the runtime."""
    command = [sys.executable, "-c", IMPORT]
    environment = {"PYTHONPATH": str(ROOT / "runtime"), "PATH": ""}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(done.stdout)


def list_distributions(names: tuple[str, ...]) -> set[str]:
    """Return the names of distributions and of all that they need, without extras."""
    results: set[str] = set()
    left = list(names)
    while left:
        name = left.pop()
        if name in results:
            continue
        results.add(name)
        lines = [line for line in metadata.requires(name) or () if "extra ==" not in line]
        left += [re.split(r"[^\w.-]", line, maxsplit=1)[0].lower() for line in lines]
    return results


def measure_distribution(name: str) -> float:
    """Return the megabytes that the files of an installed distribution take."""
    files = metadata.files(name) or ()
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def measure_folder(folder: Path) -> float:
    """Return the megabytes that the files of a folder take."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


if __name__ == "__main__":
    raise SystemExit(main())
