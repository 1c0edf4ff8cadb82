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
HELD_OUT = 0.3
"""Share of the NIH patients without a box whose films are only tested on."""
VALIDATION = 0.1
"""Share of each hospital's training patients that choose what is chosen."""


@dataclass(frozen=True)
class Film:
    """One file, what it is, and whose."""

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
    being = arguments.out.with_name(arguments.out.name + ".part")
    shutil.rmtree(being, ignore_errors=True)
    nih = arguments.data / "cxr-nih"
    boxes = rows(nih / "boxes.csv")
    films = [*kermany(arguments.data / "cxr-kermany", "train"), *of_nih(nih)]
    tested = {film.patient for film in films if film.file.name in {row["file"] for row in boxes}}
    others = {film.patient for film in films if film.hospital == "nih"} - tested
    tested |= drawn(others, HELD_OUT, arguments.seed)
    validated: set[str] = set()
    for hospital in ("kermany", "nih"):
        trained = {film.patient for film in films if film.hospital == hospital} - tested
        validated |= drawn(trained, VALIDATION, arguments.seed)
    for film in films:
        part = "test" if film.patient in tested else "train"
        keep(film, being / ("validate" if film.patient in validated else part))
    for film in kermany(arguments.data / "cxr-kermany", "test"):
        keep(film, being / "test")
    framed(nih, boxes, being / "boxes")
    outlined(arguments.data / "cxr-covid-seg", being / "opacities")
    being.rename(arguments.out)
    for part in sorted(arguments.out.iterdir()):
        print(f"{part.name}: {sum(1 for file in part.rglob('*.jp*g'))} films")


def kermany(folder: Path, split: str) -> Iterator[Film]:
    """Films of children, Guangzhou; the test folder names no patients, and needs none."""
    for row in rows(folder / "labels.csv"):
        if row["split"] == split:
            label = "normal" if row["class"] == "normal" else ILL
            file = folder / row["file"]
            yield Film(file, "kermany", label, f"kermany {row['patient'] or file.stem}")


def of_nih(folder: Path) -> Iterator[Film]:
    """Films of the NIH; their findings were mined from reports."""
    for row in rows(folder / "labels.csv"):
        label = ILL if row["finding"] == ILL else "normal"
        yield Film(folder / row["file"], "nih", label, f"nih {row['patient_id']}")


def keep(film: Film, part: Path) -> None:
    path = part / film.label / f"{film.hospital}-{film.file.name}"
    if path.exists():
        raise SystemExit(f"error: {film.file}: there is another film of that name and label")
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(film.file, path)


def framed(folder: Path, boxes: list[dict[str, str]], out: Path) -> None:
    """The films with boxes; both readings count, and `source` says whose each box is."""
    names = sorted({row["file"] for row in boxes})
    out.mkdir(parents=True)
    for name in names:
        shutil.copyfile(folder / name, out / name)
    table(out / "labels.csv", [{"file": name, "class": ILL} for name in names])
    corners = ("xmin", "ymin", "xmax", "ymax")
    kept = [
        {"file": row["file"], "source": row["source"], **{c: row[c] for c in corners}}
        for row in boxes
    ]
    table(out / "boxes.csv", kept)


def outlined(folder: Path, out: Path) -> None:
    """The films whose opacities were outlined."""
    kept = []
    for row in rows(folder / "labels.csv"):
        film, mask, lungs = (folder / row[kind] for kind in ("file", "mask", "lung_mask"))
        for file, path in (
            (film, out / film.name),
            (mask, out / "masks" / f"{film.stem}.png"),
            (lungs, out / "lungs" / f"{film.stem}.png"),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, path)
        kept.append({"file": film.name, "class": ILL})
    table(out / "labels.csv", kept)


def drawn(patients: set[str], share: float, seed: int) -> set[str]:
    ordered = sorted(patients)
    return set(random.Random(seed).sample(ordered, round(share * len(ordered))))


def rows(path: Path) -> list[dict[str, str]]:
    if not path.is_file():
        raise SystemExit(f"error: {path} is missing")
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def table(path: Path, found: Iterable[dict[str, str]]) -> None:
    listed = list(found)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(listed[0]))
        writer.writeheader()
        writer.writerows(listed)


if __name__ == "__main__":
    main()
