"""Trains a small network from scratch on 560 galaxies and stars: galaxies.py DATA OUT.

DATA holds `star-galaxy`. Each of three draws takes a quarter of the training images of each class
with their labels, of which a twentieth only sets the temperature. All test images measure. Prints
the figures of each draw, and the mean balanced accuracy. What is finished is not trained again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import torch

import apercu
from apercu.learning.results import FIGURES, LearningFigures

SHARE, DRAWS = 0.25, 3
SETTINGS = {
    "scratch": True,
    "turned": True,
    "calibration": 0.05,
    "views": {"smallest": 0.8, "stretch": 1.1},
    "schedule": {"steps": 600, "batch": 32},
}
"""The sky has no upside: images are turned by right angles and mirrored."""


def main() -> None:
    """Train and measure all draws."""
    data, out = Path(sys.argv[1]) / "star-galaxy", Path(sys.argv[2])
    values = []
    for draw in range(DRAWS):
        run = out / f"draw-{draw}"
        if not (run / FIGURES).is_file():
            table = write_table(data / "train", out / f"labels-{draw}.csv", draw)
            apercu.train_classifier(
                data / "train",
                "timm/resnet10t",
                run,
                labels=table,
                test=data / "test",
                config=SETTINGS,
                seed=draw,
                resume=True,
            )
        stored = (run / FIGURES).read_text(encoding="utf-8")
        figures = LearningFigures.model_validate_json(stored)
        for name in ("balanced_accuracy", "auroc", "calibration_error"):
            print(f"draw {draw}: {name} {figures.figures[name].text}")
        print(f"draw {draw}: by chance {figures.calibrated.chance_error:.3f}", flush=True)
        values.append(figures.figures["balanced_accuracy"].value)
    print(f"mean balanced accuracy: {sum(values) / len(values):.3f}")


def write_table(folder: Path, path: Path, draw: int) -> Path:
    """Write the table of the labels of one draw, and return its path."""
    generator = torch.Generator().manual_seed(draw)
    rows = []
    for name in ("star", "galaxy"):
        files = sorted(file.relative_to(folder) for file in (folder / name).glob("*.jp*g"))
        order = torch.randperm(len(files), generator=generator).tolist()
        rows += [(files[index], name) for index in order[: round(SHARE * len(files))]]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("file", "label"), *rows])
    return path


if __name__ == "__main__":
    main()
