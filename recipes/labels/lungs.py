"""Prepares chest films for one question, normal or pneumonia: lungs.py DATA OUT.

DATA holds `cxr-kermany` and `cxr-covid-seg`. OUT/train.csv and OUT/test.csv are tables of labels
with the patients; OUT/lungs holds films of other hospitals, with both lungs as the true masks.
"""

from __future__ import annotations

import csv
import shutil
import sys
from pathlib import Path


def main() -> None:
    """Write the tables, and copy the films with outlined lungs."""
    data, out = Path(sys.argv[1]), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    films = read_rows(data / "cxr-kermany" / "labels.csv")
    for part in ("train", "test"):
        chosen = [row for row in films if row["split"] == part]
        write_rows(out / f"{part}.csv", [describe_film(row, part) for row in chosen])
    folder, source = out / "lungs", data / "cxr-covid-seg"
    (folder / "masks").mkdir(parents=True, exist_ok=True)
    labels = []
    for row in read_rows(source / "labels.csv"):
        film = source / row["file"]
        shutil.copyfile(film, folder / film.name)
        shutil.copyfile(source / row["lung_mask"], folder / "masks" / f"{film.stem}.png")
        labels.append({"file": film.name, "class": "pneumonia"})
    write_rows(folder / "labels.csv", labels)


def describe_film(row: dict[str, str], part: str) -> dict[str, str]:
    """Return the file inside its part, its label and its patient, who is the film where unknown."""
    file = row["file"].removeprefix(f"{part}/")
    label = "normal" if row["class"] == "normal" else "pneumonia"
    return {"file": file, "label": label, "patient": row["patient"] or file}


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a table."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_rows(path: Path, rows: list[dict[str, str]]) -> None:
    """Write rows as a table."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
