"""Sorts alerts of the ZTF survey into learn.npz and test.npz, no object in both, and labels.csv.

    python recipes/ztf/prepare.py DATA/ztf OUT

Labels: `real`, the survey's own score `rb` of 0.65 or more, at which its public stream passes
alerts on; `star`, a score of the nearest catalogue source above 0.8, and not star below 0.2;
`asteroid`, a known one within 5 arc seconds. Empty where the survey does not say. `rb` is the
answer of a classifier, not a truth.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
from numpy.typing import NDArray

TEST_FRACTION = 0.25
"""Fraction of the objects whose alerts are only tested on."""
REAL, STAR, GALAXY = 0.65, 0.8, 0.2
COLUMNS = ("candid", "objectId", "rb", "sgscore1", "is_asteroid")


def find_test_alerts(objects: list[str], seed: int = 0) -> NDArray[np.bool_]:
    """Return for each alert whether its object is only tested on."""
    names = sorted(set(objects))
    np.random.default_rng(seed).shuffle(names)
    chosen = set(names[: round(TEST_FRACTION * len(names))])
    return np.array([name in chosen for name in objects])


def find_labels(row: dict[str, Any]) -> dict[str, str]:
    """Return the classes of one alert by question; empty where the survey does not say."""
    rb, score = row["rb"], row["sgscore1"]
    is_scored = rb is not None and rb >= 0
    side = "" if score is None or score < 0 or GALAXY <= score <= STAR else str(score > STAR)
    return {
        "real": ("real" if rb >= REAL else "bogus") if is_scored else "",
        "star": {"True": "star", "False": "galaxy", "": ""}[side],
        "asteroid": "asteroid" if row["is_asteroid"] else "other",
    }


def main(data: Path, out: Path) -> None:
    """Write the stamps of both parts, and the labels of all alerts."""
    rows = parquet.read_table(data / "alerts.parquet", columns=list(COLUMNS)).to_pylist()
    with np.load(data / "alerts.npz", allow_pickle=False) as archive:
        stamps, candid = archive["stamps"], archive["candid"]
    tested = find_test_alerts([row["objectId"] for row in rows])
    out.mkdir(parents=True, exist_ok=True)
    for name, chosen in (("learn", ~tested), ("test", tested)):
        np.savez(out / f"{name}.npz", stamps=stamps[chosen], candid=candid[chosen])
    with (out / "labels.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ("candid", "real", "star", "asteroid"))
        writer.writeheader()
        for row in rows:
            writer.writerow({"candid": row["candid"], **find_labels(row)})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    main(**vars(parser.parse_args()))
