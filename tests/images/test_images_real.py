"""Real sets, where they are at hand: photographs, chest films, survey stamps."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apercu.images import open_images

DATA = Path(os.environ.get("APERCU_DATA", Path(__file__).parents[3] / "shared")) / "data"

pytestmark = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real data at {DATA}; set APERCU_DATA"
)


def test_photographs_with_boxes() -> None:
    source = open_images(DATA / "imagenet-val")
    with (DATA / "imagenet-val" / "labels.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(source) == 500 and source.labelled
    total = 0
    for row, item in zip(rows, source, strict=True):
        assert item.name == row["file"] and item.label == int(row["class_index"])
        assert item.picture.shape == (3, int(row["height"]), int(row["width"]))
        assert item.boxes is not None
        total += len(item.boxes)
    assert total == 796


@pytest.mark.parametrize(
    ("name", "length", "classes", "boxes", "regions"),
    [
        ("cxr-nih", 874, ("no_finding", "pneumonia"), 135, 0),
        ("cxr-kermany", 2024, ("bacteria", "normal", "virus"), 0, 0),
        ("cxr-kermany/test", 624, ("bacteria", "normal", "virus"), 0, 0),
        ("star-galaxy/test", 747, ("galaxy", "star"), 0, 0),
        ("cifar10/test.parquet", 10000, None, 0, 0),
    ],
)
def test_sets(
    name: str, length: int, classes: tuple[str, ...] | None, boxes: int, regions: int
) -> None:
    source = open_images(DATA / name, channels=1)
    assert len(source) == length
    assert source.class_names and classes in (None, source.class_names)
    framed = 0
    for index in range(0, length, 1 if boxes else length // 20):
        item = source[index]
        assert item.picture.shape[0] == 1 and item.label in source.class_names
        framed += 0 if item.boxes is None else len(item.boxes)
    assert framed == boxes


def test_masks_of_chest_films() -> None:
    source = open_images(DATA / "cxr-covid-seg", channels=1)
    with (DATA / "cxr-covid-seg" / "labels.csv").open() as stream:
        shares = {row["file"]: float(row["mask_fraction"]) for row in csv.DictReader(stream)}
    for item in source:
        assert item.region is not None
        assert float(item.region.float().mean()) == pytest.approx(shares[item.name], abs=1e-4)


def test_class_names_of_cifar() -> None:
    source = open_images(DATA / "cifar10" / "test.parquet")
    assert source.class_names is not None and source.class_names[:3] == (
        "airplane",
        "automobile",
        "bird",
    )


PASS = """
import resource, sys
from apercu.images import batches, open_images
source = open_images(sys.argv[1])
import torch.nn.functional as F
prepare = lambda picture: F.interpolate(picture[None], size=(64, 64))[0]
marks = []
for batch in batches(source, prepare, 32, indices=range(0, len(source), 2)):
    marks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(marks[len(marks) // 5] // 1024, marks[-1] // 1024)
"""


def test_memory_stays_constant_over_a_pass() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PASS, str(DATA / "imagenet-train")],
        capture_output=True,
        text=True,
        check=True,
    )
    early, late = (int(mebibytes) for mebibytes in done.stdout.split())
    assert late - early < 48
