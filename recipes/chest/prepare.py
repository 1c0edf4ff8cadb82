"""Sorts the chest films of three sources into folders that every command of apercu opens.

    python recipes/chest/prepare.py DATA OUT [--seed N]

DATA holds `cxr-kermany`, `cxr-nih` and `cxr-covid-seg`. In OUT:

    train/ validate/ test/    a folder per class, names begin with the hospital; no patient in two
    boxes/                    pneumonia films of the NIH with radiologists' boxes
    opacities/                films with masks of the opacities, and lungs/ beside them

Of Kermany the test folder is kept as it is. Of the NIH all patients with a box are tested on, and a
share of the others.
"""

from __future__ import annotations

import argparse
import csv
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ILL = "pneumonia"
CLASSES = ("normal", ILL)
TEST_FRACTION = 0.3
"""Fraction of the NIH patients without a box whose films are only tested on."""
VALIDATION_FRACTION = 0.1
"""Fraction of each hospital's training patients whose films validate."""


@dataclass(frozen=True)
class Film:
    """One film of a source.

    Attributes:
        file: the file of the film.
        hospital: the source, `kermany` or `nih`.
        label: one of CLASSES.
        patient: the hospital and its number of the patient.
    """

    file: Path
    hospital: str
    label: str
    patient: str


def main() -> None:
    words = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    words.add_argument("data", type=Path)
    words.add_argument("out", type=Path)
    words.add_argument("--seed", type=int, default=0)
    arguments = words.parse_args()
    if arguments.out.exists():
        raise SystemExit(f"error: {arguments.out} is there already; choose another folder")
    partial = arguments.out.with_name(arguments.out.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    kermany, nih = arguments.data / "cxr-kermany", arguments.data / "cxr-nih"
    boxes = read_table(nih / "boxes.csv")
    films = [*list_kermany(kermany, "train"), *list_nih(nih)]
    parts = assign_parts(films, {row["file"] for row in boxes}, arguments.seed)
    for film in films:
        copy_film(film, partial / parts[film.patient])
    for film in list_kermany(kermany, "test"):
        copy_film(film, partial / "test")
    write_boxed_films(nih, boxes, partial / "boxes")
    write_outlined_films(arguments.data / "cxr-covid-seg", partial / "opacities")
    partial.rename(arguments.out)
    for part in sorted(arguments.out.iterdir()):
        print(f"{part.name}: {sum(1 for file in part.rglob('*.jp*g'))} films")


def list_kermany(folder: Path, split: str) -> Iterator[Film]:
    """Yield Kermany's films of children of one split, `train` or `test`.

    Films of the test split name no patient; each counts as a patient of its own.
    """
    for row in read_table(folder / "labels.csv"):
        if row["split"] == split:
            label = "normal" if row["class"] == "normal" else ILL
            file = folder / row["file"]
            yield Film(file, "kermany", label, f"kermany {row['patient'] or file.stem}")


def list_nih(folder: Path) -> Iterator[Film]:
    """Yield the films of the NIH, whose findings were mined from reports."""
    for row in read_table(folder / "labels.csv"):
        label = ILL if row["finding"] == ILL else "normal"
        yield Film(folder / row["file"], "nih", label, f"nih {row['patient_id']}")


def assign_parts(films: list[Film], boxed: set[str], seed: int) -> dict[str, str]:
    """Return which part the films of each patient belong to.

    Args:
        films: films of all hospitals, without the test folder of Kermany.
        boxed: names of the files with a box; their patients are tested on.
        seed: seed of both random choices of patients.

    Returns:
        `train`, `validate` or `test`, by patient.
    """
    tested = {film.patient for film in films if film.file.name in boxed}
    others = {film.patient for film in films if film.hospital == "nih"} - tested
    tested |= sample_patients(others, TEST_FRACTION, seed)
    parts = {film.patient: "test" if film.patient in tested else "train" for film in films}
    for hospital in ("kermany", "nih"):
        trained = {film.patient for film in films if film.hospital == hospital} - tested
        parts |= dict.fromkeys(sample_patients(trained, VALIDATION_FRACTION, seed), "validate")
    return parts


def sample_patients(patients: set[str], fraction: float, seed: int) -> set[str]:
    """Return a random fraction of the patients, the same for the same seed."""
    ordered = sorted(patients)
    return set(random.Random(seed).sample(ordered, round(fraction * len(ordered))))


def copy_film(film: Film, part: Path) -> None:
    """Copy a film into the folder of its class, under a name that begins with its hospital."""
    path = part / film.label / f"{film.hospital}-{film.file.name}"
    if path.exists():
        raise SystemExit(f"error: {film.file}: there is another film of that name and label")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(film.file, path)


def write_boxed_films(folder: Path, boxes: list[dict[str, str]], out: Path) -> None:
    """Write the films that have boxes, with `labels.csv` and `boxes.csv`.

    Args:
        folder: the films of the NIH.
        boxes: rows of its `boxes.csv`, corners in pixels; the boxes of both readings of a film are
            kept, and `source` says which reading each is from.
        out: folder that is made.
    """
    names = sorted({row["file"] for row in boxes})
    out.mkdir(parents=True)
    for name in names:
        shutil.copyfile(folder / name, out / name)
    write_table(out / "labels.csv", [{"file": name, "class": ILL} for name in names])
    columns = ("file", "source", "xmin", "ymin", "xmax", "ymax")
    write_table(out / "boxes.csv", [{name: row[name] for name in columns} for row in boxes])


def write_outlined_films(folder: Path, out: Path) -> None:
    """Write the films whose opacities were outlined, with `masks`, `lungs` and `labels.csv`."""
    labels = []
    for row in read_table(folder / "labels.csv"):
        film, mask, lungs = (folder / row[column] for column in ("file", "mask", "lung_mask"))
        for file, path in (
            (film, out / film.name),
            (mask, out / "masks" / f"{film.stem}.png"),
            (lungs, out / "lungs" / f"{film.stem}.png"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
        labels.append({"file": film.name, "class": ILL})
    write_table(out / "labels.csv", labels)


def read_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file, by the names of its columns."""
    if not path.is_file():
        raise SystemExit(f"error: {path} is missing")
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def write_table(path: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write rows as a CSV file; the columns are those of the first row."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
