"""Trials of a server: load, faults, hostile input. Each adds to docs/reference/reliability.json.

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

from trials.clients import disconnect_clients, overload, upload_slowly
from trials.faults import kill_workers, run_on_full_disk, terminate_under_load
from trials.fuzz import send_fuzzed
from trials.load_generator import spawn_process
from trials.pictures import ExpectedAnswers, make_jpegs, save_untrained_run
from trials.trial import ROWS, TrialResult, TrialSetup, save_result, update_manual

PICTURES = 8
TRIALS: dict[str, tuple[Callable[[TrialSetup], TrialResult], float]] = {
    "load": (overload, 600.0),
    "kills": (kill_workers, 120.0),
    "disconnects": (disconnect_clients, 60.0),
    "slow": (upload_slowly, 60.0),
    "sigterm": (terminate_under_load, 5.0),
    "disk_full": (run_on_full_disk, 20.0),
    "fuzz": (send_fuzzed, 1060.0),
}
"""Each trial, and its default seconds."""


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
    kept = [_run_trial(name, given) for name in given.trials]
    if given.table:
        update_manual(given.out)
    return 0 if all(kept) else 1


def _run_trial(name: str, given: argparse.Namespace) -> bool:
    trial, seconds = TRIALS[name]
    pictures = make_jpegs(PICTURES, given.seed)
    with tempfile.TemporaryDirectory() as folder, spawn_process() as callers:
        run = given.run or save_untrained_run(Path(folder) / "run", given.seed)
        key = ExpectedAnswers.from_run(run, pictures)
        result = trial(
            TrialSetup(run, pictures, key, callers, given.seconds or seconds, given.seed)
        )
    words = [] if given.seconds is None else [f"--seconds {given.seconds:g}"]
    words += [f"--seed {given.seed}"] * (given.seed != 0)
    save_result(name, result, " ".join(("benchmarks/reliability.py", name, *words)), given.out)
    print(f"{name}: {result}", flush=True)
    return result.kept


if __name__ == "__main__":
    sys.exit(main())
