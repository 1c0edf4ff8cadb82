"""Alerts of the ZTF survey → learn.npz and test.npz, no object in both, and labels.csv.

    python recipes/ztf/prepare.py DATA/ztf OUT

Labels: `real`, the survey's own score `rb` of 0.65 or more, at which its public stream passes
alerts on; `star`, a score of the nearest catalogue source above 0.8, and not star below 0.2;
`asteroid`, a known one within 5 arc seconds. Empty where the survey does not say. `rb` is the
answer of a classifier, not a truth.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

TESTED = 0.25
REAL, STAR, GALAXY = 0.65, 0.8, 0.2
COLUMNS = ("candid", "objectId", "rb", "sgscore1", "is_asteroid")


def held_back(objects: list[str], seed: int = 0) -> NDArray[np.bool_]:
    """Whether each alert belongs to an object of the test: a quarter of the objects."""
    names = sorted(set(objects))
    np.random.default_rng(seed).shuffle(names)
    chosen = set(names[: round(TESTED * len(names))])
    return np.array([name in chosen for name in objects])


def labels(row: dict[str, Any]) -> dict[str, str]:
    """The classes of one alert, as far as they are known."""
    rb, score = row["rb"], row["sgscore1"]
    is_scored = rb is not None and rb >= 0
    side = "" if score is None or score < 0 or GALAXY <= score <= STAR else str(score > STAR)
    return {
        "real": ("real" if rb >= REAL else "bogus") if is_scored else "",
        "star": {"True": "star", "False": "galaxy", "": ""}[side],
        "asteroid": "asteroid" if row["is_asteroid"] else "other",
    }


def main(data: Path, out: Path) -> None:
    """Writes the three files."""
    rows = parquet.read_table(data / "alerts.parquet", columns=list(COLUMNS)).to_pylist()
    with np.load(data / "alerts.npz", allow_pickle=False) as archive:
        stamps, candid = archive["stamps"], archive["candid"]
    tested = held_back([row["objectId"] for row in rows])
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("learn", ~tested), ("test", tested)):
        np.savez(out / f"{name}.npz", stamps=stamps[chosen], candid=candid[chosen])
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ("candid", "real", "star", "asteroid"))
        writer.writeheader()
        for row in rows:
            writer.writerow({"candid": row["candid"], **labels(row)})


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
