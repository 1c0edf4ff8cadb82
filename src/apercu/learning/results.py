"""The result of a training: the calibrated classifier, its figures, and the files of its run."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from safetensors.torch import save_file

from apercu.classifiers import Classifier, save_classifier
from apercu.classifiers.calibration import Reliability, fit_temperature, measure_reliability
from apercu.classifiers.distillation_data import PreparedImages, stack_images
from apercu.io import format_csv_rows, write_file
from apercu.learning.data import LabelledSet, ReadPart
from apercu.learning.measure import (
    FigureValue,
    MeasuredFigure,
    Predictions,
    count_confusions,
    measure_predictions,
)
from apercu.learning.network import LearningNetwork
from apercu.learning.training import FORWARD_BATCH, LearningTraining
from apercu.training.record import WEIGHTS
from apercu.types import Logits

FIGURES, PREDICTIONS = "figures.json", "predictions.csv"
COST_BATCH, COST_PASSES = 8, 5
"""Images of a pass whose time is measured, and passes after the first one."""
PARTS = ("training", "calibration", "test")


class LearningFigures(BaseModel):
    """What was measured of a trained classifier; the content of `figures.json`.

    Attributes:
        classes: names of the classes.
        images: number of images in each part.
        unknown: number of cells of the table of labels, images × classes, that nobody knows, in
            each part; they were not used.
        left_out: names of the images of each part that cannot be read, where there are some.
        temperature: number by which logits are divided.
        figures: figures on the test part, by name.
        uncalibrated: the same with a temperature of 1.
        confusions: number of test images of each true class (rows) and predicted class (columns).
        reliability: confidence, accuracy and number of predictions in each bin, before and after.
        training: seconds, steps and the like; number of parameters, and milliseconds per image.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    classes: tuple[str, ...]
    images: dict[str, int]
    unknown: dict[str, int] = {}
    left_out: dict[str, list[str]] = {}
    temperature: float
    figures: dict[str, MeasuredFigure]
    uncalibrated: dict[str, MeasuredFigure]
    confusions: tuple[tuple[int, ...], ...]
    reliability: dict[str, dict[str, tuple[float, ...]]]
    training: dict[str, FigureValue]

    @property
    def calibrated(self) -> Reliability:
        """How often predictions of a confidence are right, with the temperature."""
        bins = self.reliability["after"]
        counts = tuple(map(int, bins["counts"]))
        return Reliability(bins["confidence"], bins["accuracy"], counts)


@dataclass(frozen=True, eq=False, repr=False)
class TrainedClassifier:
    """The result of a training.

    Args:
        classifier: the classifier, whose probabilities are calibrated.
        figures: what was measured on the test part.
        folder: the run folder, whose `card.json` is a SPEC.
    """

    classifier: Classifier
    figures: LearningFigures
    folder: Path

    def __repr__(self) -> str:
        measured = ", ".join(
            f"{name} {self.figures.figures[name].text}" for name in ("balanced_accuracy", "auroc")
        )
        return (
            f"TrainedClassifier({self.folder}, {len(self.figures.classes)} classes, {measured}, "
            f"temperature {self.figures.temperature:.3g})"
        )


@dataclass(frozen=True, eq=False)
class MeasuredTest:
    """The test part with what the classifier says of it.

    Args:
        part: the images with their labels.
        images: the images at the classifier's size.
        logits: calibrated logits, `images × classes`.
    """

    part: LabelledSet
    images: PreparedImages
    logits: Logits


@torch.no_grad()
def compute_logits(network: LearningNetwork, start: Classifier, images: PreparedImages) -> Logits:
    """Return the logits of prepared images, on the CPU, `images × classes`."""
    rows = torch.split(torch.arange(len(images)), FORWARD_BATCH)
    batches = (start.normalise(stack_images(images, part).to(start.device)) for part in rows)
    return torch.cat([network(batch).cpu() for batch in batches])


@torch.no_grad()
def measure_cost(network: LearningNetwork, start: Classifier) -> dict[str, float]:
    """Measure how large the network is, and how long it takes for an image.

    Args:
        network: the network, in evaluation mode.
        start: the classifier that normalises images.

    Returns:
        The number of parameters, and the median of a few passes in milliseconds per image.
    """
    parameters = [*network.front.parameters(), *network.body.parameters()]
    parameters += network.tail.parameters()
    grey = torch.full((COST_BATCH, start.channels, *start.size), 0.5, device=start.device)
    images, seconds = start.normalise(grey), []
    for _ in range(COST_PASSES + 1):
        began = time.perf_counter()
        network(images).cpu()  # waits for the device
        seconds.append(time.perf_counter() - began)
    return {
        "parameters": float(sum(each.numel() for each in parameters)),
        "ms_per_image": 1000 * median(seconds[1:]) / COST_BATCH,
    }


def calibrate_and_measure(
    training: LearningTraining,
    calibration: ReadPart,
    measured_on: ReadPart,
    facts: dict[str, float],
    seed: int,
) -> tuple[LearningFigures, MeasuredTest]:
    """Set the temperature on the calibration part, and measure on the test part.

    Args:
        training: the trained network and its task.
        calibration: the images that set the temperature.
        measured_on: the images of the test part.
        facts: what the training measured.
        seed: seed of the intervals.

    Returns:
        The figures, and the test part with its logits.
    """
    network, task = training.network, training.task
    logits = compute_logits(network, task.start, calibration.images)
    temperature = round(fit_temperature(logits, calibration.labelled.targets, task.decision), 6)
    test, images, _ = measured_on
    logits = compute_logits(network, task.start, images)
    before = Predictions.from_logits(logits, test.targets, task.decision)
    after = Predictions.from_logits(logits / temperature, test.targets, task.decision)
    counts = (len(task.images), len(calibration.labelled), len(test))
    targets = (task.targets, calibration.labelled.targets, test.targets)
    unknown = (int(each.isnan().sum()) for each in targets)
    left_out = {
        **task.left_out,
        "calibration": calibration.left_out,
        "test": measured_on.left_out,
    }
    facts = facts | measure_cost(network, task.start)
    figures = LearningFigures(
        classes=task.classes,
        images=dict(zip(PARTS, counts, strict=True)),
        unknown=dict(zip(PARTS, unknown, strict=True)),
        left_out={part: list(names) for part, names in left_out.items() if names},
        temperature=temperature,
        figures=measure_predictions(after, test.units, seed),
        uncalibrated=measure_predictions(before, test.units, seed),
        confusions=tuple(tuple(map(int, row)) for row in count_confusions(after)),
        reliability={
            "before": _count_reliability(logits, test),
            "after": _count_reliability(logits / temperature, test),
        },
        training=facts,
    )
    return figures, MeasuredTest(test, images, logits / temperature)


def _count_reliability(logits: Logits, test: LabelledSet) -> dict[str, tuple[float, ...]]:
    """Return confidence, accuracy and number of predictions in each bin."""
    decision = test.decision
    probabilities = decision.probabilities(logits)
    bins = measure_reliability(probabilities, test.targets, is_multiple=decision.is_multiple)
    return {
        "confidence": bins.confidence,
        "accuracy": bins.accuracy,
        "counts": tuple(map(float, bins.counts)),
    }


def save_result(
    classifier: Classifier,
    network: LearningNetwork,
    figures: LearningFigures,
    test: MeasuredTest,
    run: Path,
) -> None:
    """Write card, figures, predictions and weights into the run folder, the weights last.

    Args:
        classifier: the calibrated classifier.
        network: the network, whose body gives the weights.
        figures: what was measured.
        test: the test part with its logits.
        run: the run folder.
    """
    half = run / "unfinished"
    shutil.rmtree(half, ignore_errors=True)
    save_classifier(classifier, half)
    if not (half / WEIGHTS).is_file():
        weights: dict[str, Any] = dict(network.body.state_dict())
        save_file({name: each.contiguous().cpu() for name, each in weights.items()}, half / WEIGHTS)
    write_file(run / FIGURES, figures.model_dump_json(indent=1) + "\n")
    write_file(run / PREDICTIONS, format_predictions(test))
    for path in sorted(half.iterdir(), key=lambda path: path.name == WEIGHTS):
        path.replace(run / path.name)
    half.rmdir()


def format_predictions(test: MeasuredTest) -> str:
    """Return a CSV table of the test images: file, unit, true classes, and all probabilities.

    The classes that nobody knows have a column of their own, where there are some.
    """
    part = test.part
    states = {"labels": part.targets == 1}
    if part.count_unknown():
        states["unknown"] = part.targets.isnan()
    header = ["file", "unit", *states, *(f"probability of {name}" for name in part.classes)]
    probabilities = part.decision.probabilities(test.logits.double()).tolist()
    rows = [
        [
            part.source.names[index],
            part.units[index],
            *(_join_names(part.classes, state[index].tolist()) for state in states.values()),
            *(f"{value:.6g}" for value in row),
        ]
        for index, row in enumerate(probabilities)
    ]
    return format_csv_rows([header, *rows])


def _join_names(names: Sequence[str], chosen: Sequence[bool]) -> str:
    """Return the names that are chosen, with `|` between them."""
    return "|".join(name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen)
