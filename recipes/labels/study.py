"""Which recipes help where labels are few: recipes × share of the labels, on the sky and on films.

    python recipes/labels/study.py train OUT [--tasks …] [--shares …] [--chains …] [--seeds N]
    python recipes/labels/study.py table OUT

OUT/data holds what `recipes/ztf/prepare.py` leaves, OUT/pretrained a network for each task. The
folder of all data is `APERCU_DATA`. Each chain is trained for every seed, which draws the labels
that it may see; all chains of a seed see the same ones. Networks that do not change compute their
features once. A finished training is not repeated, so an interrupted study goes on where it was.
The table pairs chains by seed and test image: ▲ and ▼ are differences beyond chance.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from chains import Chain, describe_chain, list_chains
from laboratory import Laboratory
from tables import find_result, make_table
from tasks import TASKS

from apercu.errors import ApercuError
from apercu.io import write_file
from training import run_chain

SHARES = (0.05, 0.25, 0.01, 0.1, 1.0)


def train_all(
    out: Path, tasks: Sequence[str], shares: Sequence[float], names: Sequence[str], seeds: int
) -> None:
    """Train what is not finished: share by share, chain by chain, task by task."""
    chains = list_chains()
    laboratories: dict[str, Laboratory] = {}
    for share, name, task in product(shares, names, tasks):
        for seed in range(seeds):
            path = find_result(out, task, share, name, seed)
            if path.is_file():
                check_result(path, chains[name])
                continue
            if task not in laboratories:
                laboratories[task] = Laboratory(task, out)
            try:
                result = run_chain(laboratories[task], chains[name], share, seed)
            except ApercuError as error:
                print(f"{task} {share:g} {name}: {error}", flush=True)
                break
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(result) + "\n")
            print(f"{task} {share:g} {name} {seed}: {result['seconds']} s", flush=True)


def check_result(path: Path, chain: Chain) -> None:
    """Exit with a line if a finished training had other settings."""
    result = json.loads(path.read_text(encoding="utf-8"))
    if result.get("chain") != describe_chain(chain, result["labels"]):
        raise SystemExit(f"error: {path}: trained with other settings; choose another OUT")


def main() -> None:
    """Train, or make the table."""
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("verb", choices=("train", "table"))
    words.add_argument("out", type=Path)
    words.add_argument("--tasks", default=",".join(TASKS))
    words.add_argument("--shares", default=",".join(f"{share:g}" for share in SHARES))
    words.add_argument("--chains", default=";".join(list_chains()), help="names with ; between")
    words.add_argument("--seeds", type=int, default=5)
    arguments = words.parse_args()
    tasks = arguments.tasks.split(",")
    shares = [float(each) for each in arguments.shares.split(",")]
    if arguments.verb == "table":
        make_table(arguments.out, tasks, shares, arguments.seeds)
    else:
        train_all(arguments.out, tasks, shares, arguments.chains.split(";"), arguments.seeds)


if __name__ == "__main__":
    main()
