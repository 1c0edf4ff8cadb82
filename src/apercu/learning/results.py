"""The result of a training: the calibrated classifier, its figures, and the files of its run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from apercu.classifiers import Classifier, save_classifier
from apercu.io import write_file
from apercu.learning.calibration import Reliability, fit_temperature, measure_reliability
from apercu.learning.data import LearningParts, read_part
from apercu.learning.measure import (
    MeasuredFigure,
    Predictions,
    count_confusions,
    measure_predictions,
)
from apercu.learning.network import LearningNetwork
from apercu.learning.training import FORWARD_BATCH, LearningTraining
from apercu.training.record import WEIGHTS
from apercu.training.trainer import Trainer
from apercu.types import Logits

FIGURES = "figures.json"
PARTS = ("training", "calibration", "test")


class LearningFigures(BaseModel):
    """What was measured of a trained classifier; the content of `figures.json`.

    Attributes:
        classes: names of the classes.
        images: number of images in each part.
        temperature: number by which logits are divided.
        figures: figures on the test part, by name.
        uncalibrated: the same with a temperature of 1.
        confusions: number of test images of each true class (rows) and predicted class (columns).
        reliability: confidence, accuracy and number of predictions in each bin, before and after.
        training: seconds, steps and the like.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    classes: tuple[str, ...]
    images: dict[str, int]
    temperature: float
    figures: dict[str, MeasuredFigure]
    uncalibrated: dict[str, MeasuredFigure]
    confusions: tuple[tuple[int, ...], ...]
    reliability: dict[str, dict[str, tuple[float, ...]]]
    training: dict[str, float]


@dataclass(frozen=True, eq=False)
class TrainedClassifier:
    """The result of a training.

    Args:
        classifier: the classifier, whose probabilities are calibrated.
        figures: what was measured on the test part.
        folder: the run folder, whose `card.json` is a SPEC.
    """

    classifier: Classifier = field(repr=False)
    figures: LearningFigures
    folder: Path


@torch.no_grad()
def compute_logits(network: LearningNetwork, start: Classifier, images: Tensor) -> Logits:
    """Return the logits of prepared images, on the CPU, `images × classes`."""
    batches = images.split(FORWARD_BATCH)
    return torch.cat([network(start.normalise(part.to(start.device))).cpu() for part in batches])


def calibrate_and_measure(
    training: LearningTraining, trainer: Trainer, parts: LearningParts, facts: dict[str, float]
) -> LearningFigures:
    """Set the temperature on the calibration part, and measure on the test part."""
    network, task = training.network, training.task
    calibration, images = read_part(
        parts.calibration, task.start, trainer.report, "calibration images"
    )
    logits = compute_logits(network, task.start, images)
    temperature = fit_temperature(logits, calibration.targets, task.decision)
    test, images = read_part(parts.test, task.start, trainer.report, "test images")
    logits = compute_logits(network, task.start, images)
    measured: dict[str, dict[str, MeasuredFigure]] = {}
    reliability: dict[str, Reliability] = {}
    predictions = Predictions.from_logits(logits, test.targets, task.decision)
    for name, divisor in (("before", 1.0), ("after", temperature)):
        scaled = logits / divisor
        predictions = Predictions.from_logits(scaled, test.targets, task.decision)
        measured[name] = measure_predictions(predictions, test.units, trainer.seed)
        reliability[name] = measure_reliability(
            task.decision.probabilities(scaled),
            test.targets,
            is_multiple=task.decision.is_multiple,
        )
    counts = (len(task.images), len(calibration), len(test))
    return LearningFigures(
        classes=task.classes,
        images=dict(zip(PARTS, counts, strict=True)),
        temperature=temperature,
        figures=measured["after"],
        uncalibrated=measured["before"],
        confusions=tuple(tuple(map(int, row)) for row in count_confusions(predictions)),
        reliability={
            name: {
                "confidence": each.confidence,
                "accuracy": each.accuracy,
                "counts": tuple(map(float, each.counts)),
            }
            for name, each in reliability.items()
        },
        training=facts,
    )


def save_result(
    classifier: Classifier, network: LearningNetwork, figures: LearningFigures, trainer: Trainer
) -> None:
    """Write card, figures and weights into the run folder, the weights last."""
    from safetensors.torch import save_file

    half = trainer.run / "unfinished"
    shutil.rmtree(half, ignore_errors=True)
    save_classifier(classifier, half)
    if not (half / WEIGHTS).is_file():
        weights: dict[str, Any] = dict(network.body.state_dict())
        save_file({name: each.contiguous().cpu() for name, each in weights.items()}, half / WEIGHTS)
    write_file(trainer.run / FIGURES, figures.model_dump_json(indent=1) + "\n")
    for path in sorted(half.iterdir(), key=lambda path: path.name == WEIGHTS):
        path.replace(trainer.run / path.name)
    half.rmdir()
