"""Chest films of two hospitals as tensors, with patients kept apart."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apercu.classifiers import InputSpec
from apercu.classifiers.pixels import fit_picture
from apercu.images import open_images

CLASSES = ("normal", "pneumonia")
ILL = ("pneumonia", "bacteria", "virus")
HELD_OUT = 0.3
"""Share of the NIH patients without a box whose films are only tested on."""
VALIDATION = 0.1
"""Share of each hospital's training patients that choose the temperature."""


@dataclass(frozen=True, eq=False)
class Films:
    """Films of some patients.

    Attributes:
        images: `films × 1 × height × width` in [0, 1].
        labels: 0 normal, 1 pneumonia.
        hospitals: 0 Kermany, 1 NIH.
    """

    images: Tensor
    labels: Tensor
    hospitals: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, hospital: int) -> Films:
        chosen = self.hospitals == hospital
        return Films(self.images[chosen], self.labels[chosen], self.hospitals[chosen])


def read_films(data: Path, spec: InputSpec, seed: int) -> dict[str, Films]:
    """Films to `train`, `validate` and `test` on; no patient is in two of them.

    Kermany's test folder is its own. Of the NIH, all patients with a box are tested on, for their
    boxes are, and a share of the others.
    """
    parts: dict[str, list[tuple[Tensor, int, int]]] = {"train": [], "validate": [], "test": []}
    for hospital, folder, patients in (
        (0, data / "cxr-kermany" / "train", _patients(data / "cxr-kermany", "patient", "train/")),
        (0, data / "cxr-kermany" / "test", {}),
        (1, data / "cxr-nih", _patients(data / "cxr-nih", "patient_id")),
    ):
        boxed = _boxed(folder)
        tested = {patients[name] for name in boxed}
        if hospital == 1:
            tested |= _drawn(set(patients.values()) - tested, HELD_OUT, seed)
        validating = _drawn(set(patients.values()) - tested, VALIDATION, seed + 1)
        for item in open_images(folder, channels=1):
            patient = patients[item.name] if patients else None  # the test folder needs none
            part = "test" if patient is None or patient in tested else "train"
            part = "validate" if patient in validating else part
            image = fit_picture(item.picture, spec, "squash")
            parts[part].append((image, int(item.label in ILL), hospital))
    return {name: _stacked(films) for name, films in parts.items()}


def _stacked(films: list[tuple[Tensor, int, int]]) -> Films:
    images, labels, hospitals = zip(*films, strict=True)
    return Films(torch.stack(images), torch.tensor(labels), torch.tensor(hospitals))


def _patients(folder: Path, column: str, prefix: str = "") -> dict[str, str]:
    """The patient of each file whose name starts so; names without what they start with."""
    with (folder / "labels.csv").open(newline="") as table:
        return {
            row["file"].removeprefix(prefix): row[column]
            for row in csv.DictReader(table)
            if row["file"].startswith(prefix)
        }


def _boxed(folder: Path) -> set[str]:
    path = folder / "boxes.csv"
    if not path.is_file():
        return set()
    with path.open(newline="") as table:
        return {row["file"] for row in csv.DictReader(table)}


def _drawn(patients: set[str], share: float, seed: int) -> set[str]:
    ordered = sorted(patients)
    order = torch.randperm(len(ordered), generator=torch.Generator().manual_seed(seed)).tolist()
    return {ordered[place] for place in order[: round(share * len(ordered))]}
