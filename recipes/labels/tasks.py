"""The tasks with few labels: images of the sky and of the chest, with classes and objects."""

from __future__ import annotations

import csv
import os
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from apercu import open_images
from apercu.classifiers.decisions import ONE_CLASS
from apercu.images import ImageSource
from apercu.images.source import ChosenImages
from apercu.learning.data import LabelledSet, read_labels_of

DATA = Path(os.environ.get("APERCU_DATA", "../shared"))
CLASSES = {"ztf-real": "real", "ztf-star": "star"}
"""The column of the catalogue for the tasks on alerts."""
FOLDERS = {"galaxies": "star-galaxy", "films": "cxr-kermany"}
NIH, ELSEWHERE = "films-nih", "films-elsewhere"
"""Films of the NIH; and those, where only Kermany's films have labels to learn from."""
TASKS = ("ztf-real", "galaxies", "films", "ztf-star", NIH, ELSEWHERE)
PARTS = ("train", "test")
TESTED = 0.4
"""Fraction of the NIH's patients that are tested on."""


def open_task(name: str, out: Path, channels: int = 3) -> tuple[LabelledSet, LabelledSet]:
    """Open the images to learn from and the test images of a task, with objects or patients."""
    if name in CLASSES:
        labels = read_catalogue(out / "data" / "labels.csv", CLASSES[name])
        objects = read_objects()
        return (
            choose_labelled(out / "data" / "learn.npz", labels, objects),
            choose_labelled(out / "data" / "test.npz", labels, objects),
        )
    if name == NIH:
        return read_nih(channels)
    if name == ELSEWHERE:
        films = open_task("films", out, channels)[0]
        test = read_nih(channels)[1]
        normal = films.targets[:, films.classes.index(test.classes[0])]
        targets = torch.stack([normal, 1 - normal], 1)
        return replace(films, classes=test.classes, targets=targets), test
    folder = DATA / "data" / FOLDERS[name]
    parts = [read_labels_of(open_images(folder / part, channels=channels)) for part in PARTS]
    if name == "films":
        with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
            patients = {row["file"]: row["patient"] for row in csv.DictReader(stream)}
        parts = [
            replace(each, groups=tuple(patients[f"{part}/{name}"] for name in each.source.names))
            for each, part in zip(parts, PARTS, strict=True)
        ]
    return parts[0], parts[1]


def open_unlabelled(name: str, channels: int) -> ImageSource | None:
    """Open the images without labels of a task whose test is of another domain; else None."""
    return read_nih(channels)[0].source if name == ELSEWHERE else None


def read_nih(channels: int) -> tuple[LabelledSet, LabelledSet]:
    """Return the films of the NIH with pneumonia, and those without a finding, by patient."""
    folder = DATA / "data" / "cxr-nih"
    source = open_images(folder, channels=channels)
    with (folder / "labels.csv").open(newline="", encoding="utf-8") as stream:
        films = {row["file"]: row for row in csv.DictReader(stream)}
    rows = [films[name] for name in source.names]
    patients = sorted({row["patient_id"] for row in rows})
    tested = set(random.Random(0).sample(patients, round(TESTED * len(patients))))
    targets = torch.tensor([[row["finding"] != "pneumonia"] for row in rows]).float()
    every = LabelledSet(
        source,
        ("normal", "pneumonia"),
        torch.cat([targets, 1 - targets], 1),
        ONE_CLASS,
        tuple(row["patient_id"] for row in rows),
    )
    learn, test = (
        every.choose([i for i, row in enumerate(rows) if (row["patient_id"] in tested) == is_test])
        for is_test in (False, True)
    )
    return learn, test


def read_catalogue(path: Path, column: str) -> dict[str, str]:
    """Return the label of each candidate that has one."""
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["candid"]: row[column] for row in csv.DictReader(stream) if row[column]}


def read_objects() -> dict[str, str]:
    """Return the object of each candidate."""
    from pyarrow import parquet

    path = DATA / "data" / "ztf" / "alerts.parquet"
    rows = parquet.read_table(path, columns=["candid", "objectId"]).to_pylist()
    return {str(row["candid"]): row["objectId"] for row in rows}


def choose_labelled(path: Path, labels: dict[str, str], objects: dict[str, str]) -> LabelledSet:
    """Return the stamps of a file that have a label."""
    source = open_images(path)
    with np.load(path) as archive:
        names = [str(each) for each in archive["candid"]]
    rows = [index for index, each in enumerate(names) if each in labels]
    classes = tuple(sorted(set(labels.values())))
    targets = torch.zeros(len(rows), len(classes))
    for row, index in enumerate(rows):
        targets[row, classes.index(labels[names[index]])] = 1
    groups = tuple(objects[names[index]] for index in rows)
    return LabelledSet(ChosenImages(source, tuple(rows)), classes, targets, ONE_CLASS, groups)
