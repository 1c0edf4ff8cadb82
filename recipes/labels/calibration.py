"""Measures how calibrated a classifier of each task is: calibration.py OUT [TASK …].

OUT is the folder of the study, with its data and pretrained networks. From all labels of a task
`apercu.train_classifier` trains all layers of the task's pretrained network; a fifth of the labels
only sets the temperature. Prints the calibration error of the test images before and after, and
that of a calibrated classifier with as many images. What is finished is not trained again.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from laboratory import Laboratory
from tasks import DATA, FOLDERS, NIH, TASKS

import apercu
from apercu.learning.data import LabelledSet
from apercu.learning.results import FIGURES, LearningFigures

SETTINGS = {
    "turned": True,
    "calibration": 0.2,
    "views": {"smallest": 0.8, "stretch": 1.1},
    "schedule": {"steps": 400, "batch": 32},
}
UPRIGHT = ("films", NIH)
"""Tasks whose images have an upside."""
MEASURED = TASKS[:5]


def main() -> None:
    """Train and measure the tasks."""
    out = Path(sys.argv[1])
    print("| task | test images | AUROC | calibration error | before | by chance | temperature |")
    for task in sys.argv[2:] or MEASURED:
        run = out / "calibrated" / task
        if not (run / FIGURES).is_file():
            train(task, out, run)
        figures = LearningFigures.model_validate_json((run / FIGURES).read_text(encoding="utf-8"))
        after, before = (
            each["calibration_error"].text for each in (figures.figures, figures.uncalibrated)
        )
        cells = (
            task,
            str(figures.images["test"]),
            figures.figures["auroc"].text,
            after,
            before,
            f"{figures.calibrated.chance_error:.3f}",
            f"{figures.temperature:.2f}",
        )
        print("|", " | ".join(cells), "|", flush=True)


def train(task: str, out: Path, run: Path) -> None:
    """Train the classifier of a task."""
    laboratory = Laboratory(task, out)
    parts = {"train": laboratory.learn, "test": laboratory.test}
    tables = {name: write_table(part, run / f"{name}.csv") for name, part in parts.items()}
    images = find_images(task, out)
    apercu.train_classifier(
        images[0],
        str(laboratory.find_pretraining()),
        run,
        labels=tables["train"],
        group="object",
        test=images[1],
        test_labels=tables["test"],
        config=SETTINGS | ({"turned": False} if task in UPRIGHT else {}),
        resume=True,
    )


def find_images(task: str, out: Path) -> tuple[Path, Path]:
    """Return the images to learn from, and those of the test."""
    if task == NIH:  # the tables tell the parts
        return DATA / "data" / "cxr-nih", DATA / "data" / "cxr-nih"
    if task in FOLDERS:
        return DATA / "data" / FOLDERS[task] / "train", DATA / "data" / FOLDERS[task] / "test"
    return out / "data" / "learn.npz", out / "data" / "test.npz"


def write_table(part: LabelledSet, path: Path) -> Path:
    """Write the labels and objects of a part, and return the path of the table."""
    names = [part.classes[index] for index in part.targets.argmax(1).tolist()]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = zip(part.source.names, names, part.units, strict=True)
        csv.writer(stream).writerows([("file", "label", "object"), *rows])
    return path


if __name__ == "__main__":
    main()
