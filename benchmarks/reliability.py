"""Trials of a server: load, faults, hostile input. Each writes a row of docs/reliability.json.

    python benchmarks/reliability.py load --seconds 600
    python benchmarks/reliability.py --table

Without `--run` the explainer is untrained, which changes neither times nor what may go wrong: the
answers are compared with those of the explainer itself. Exit code 1 where a promise is not kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from trials.callers import apart
from trials.clients import disconnects, slow
from trials.faults import disk_full, kills, sigterm
from trials.fuzz import fuzz
from trials.load import load
from trials.pictures import Key, jpegs, untrained_run
from trials.record import ROWS, Finding, record, render
from trials.stand import Stand

PICTURES = 8
TRIALS: dict[str, tuple[Callable[[Stand], Finding], float]] = {
    "load": (load, 600.0),
    "kills": (kills, 120.0),
    "disconnects": (disconnects, 60.0),
    "slow": (slow, 60.0),
    "sigterm": (sigterm, 5.0),
    "disk_full": (disk_full, 20.0),
    "fuzz": (fuzz, 1060.0),
}
"""And how many seconds each lasts, where nothing else is said."""


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("trials", nargs="*", metavar="TRIAL", help=", ".join(TRIALS))
    parser.add_argument("--table", action="store_true", help="put all rows into the manual")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROWS)
    given = parser.parse_args()
    if unknown := set(given.trials) - set(TRIALS):
        parser.error(f"expected some of {', '.join(TRIALS)}, got {', '.join(sorted(unknown))}")
    kept = [_tried(name, given) for name in given.trials]
    if given.table:
        render(given.out)
    return 0 if all(kept) else 1


def _tried(name: str, given: argparse.Namespace) -> bool:
    trial, seconds = TRIALS[name]
    pictures = jpegs(PICTURES, given.seed)
    with tempfile.TemporaryDirectory() as folder, apart() as callers:
        run = given.run or untrained_run(Path(folder) / "run", given.seed)
        key = Key.of(run, pictures)
        finding = trial(Stand(run, pictures, key, callers, given.seconds or seconds, given.seed))
    words = [] if given.seconds is None else [f"--seconds {given.seconds:g}"]
    words += [f"--seed {given.seed}"] * (given.seed != 0)
    record(name, finding, " ".join(("benchmarks/reliability.py", name, *words)), given.out)
    print(f"{name}: {finding}", flush=True)
    return finding.kept


if __name__ == "__main__":
    sys.exit(main())
