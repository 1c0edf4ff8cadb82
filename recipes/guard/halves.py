"""Divides labelled photographs: halves.py IMAGES OUT.

OUT/calibrate and OUT/measure hold every other photograph of IMAGES, each with its labels and boxes.
What sets the temperature of a confidence cannot say how good it is.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path

PARTS = ("calibrate", "measure")
TABLES = ("labels.csv", "boxes.csv")


def main() -> None:
    """Copy the photographs, and write the tables of each half."""
    images, out = Path(sys.argv[1]), Path(sys.argv[2])
    files = [row["file"] for row in read_rows(images / TABLES[0])]
    for place, part in enumerate(PARTS):
        chosen = files[place :: len(PARTS)]
        folder = out / part
        folder.mkdir(parents=True, exist_ok=True)
        for name in chosen:
            shutil.copyfile(images / name, folder / name)
        for table in TABLES:
            rows = [row for row in read_rows(images / table) if row["file"] in set(chosen)]
            with (folder / table).open("w", newline="", encoding="utf-8") as stream:
                writer = csv.DictWriter(stream, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


if __name__ == "__main__":
    main()
