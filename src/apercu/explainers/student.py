"""A student in place of a classifier without gradients, kept in the run folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter

from apercu.classifiers import (
    Classifier,
    DistillationResult,
    StudentSettings,
    distil,
    open_classifier,
    save_classifier,
)
from apercu.errors import ClassifierError, RunError
from apercu.images import ImageSource
from apercu.io import parse_json, write_file, write_json
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, cache_in_memory

STUDENT, CARD, FACTS = "student", "card.json", "facts.json"
KEPT, SETTINGS = "checkpoints", "student.json"
"""Folder and file of the settings of the student that was begun."""


@dataclass(frozen=True)
class StudentPlan:
    """The settings of a student, and the steps of the training that it is for.

    Args:
        steps: steps of the explainer's own training.
        student: settings of the student.
    """

    steps: int
    student: StudentSettings


def plan_student(run: Path, full: StudentPlan, steps: int) -> StudentSettings:
    """Return how a student is distilled: a shorter training gets a shorter student in proportion.

    A student of a shorter training is accepted however seldom it agrees with the classifier.

    Args:
        run: the run folder; what was planned there before is the start.
        full: the plan of a training of full length.
        steps: steps of the explainer's own training.

    Returns:
        The settings.

    Raises:
        RunError: the stored plan is damaged.
    """
    plan, path = full, run / KEPT / SETTINGS
    if path.is_file():
        try:
            plan = TypeAdapter(StudentPlan).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read; choose another --out") from error
        if steps == plan.steps:
            return plan.student
    length, student = math.ceil(plan.student.steps * steps / plan.steps), full.student
    if length < student.steps:
        student = replace(student, steps=max(1, length), floor=0.0)
    write_json(path, asdict(StudentPlan(steps, student)))
    return student


def distil_student(
    classifier: Classifier,
    source: ImageSource,
    run: Path,
    settings: StudentSettings,
    report: ProgressCallback = ignore_progress,
) -> DistillationResult:
    """Return the student in `RUN/student`, which is distilled first if it is not there.

    Args:
        classifier: the classifier without gradients.
        source: the training images.
        run: the run folder.
        settings: how the student is distilled.
        report: receives the name of each part of the work, how much is done, and how much there is.

    Returns:
        The student, and how often it agrees with the classifier on images held out.

    Raises:
        ImagesError: too few images to learn from.
        ClassifierError: the student agrees with the classifier less often than the floor.
        OutputError: the folder cannot be written.
    """
    folder = run / STUDENT
    earlier = _load_student(folder, classifier)
    if earlier is not None:
        return earlier
    images = cache_in_memory(TrainingImages(source, classifier), report)
    distilled = distil(classifier, images, settings, report=report, folder=run / KEPT)
    save_classifier(distilled.student, folder)
    facts = {"teacher": classifier.fingerprint, "agreement": distilled.agreement}
    write_file(folder / FACTS, json.dumps(facts, indent=1))
    return distilled


def _load_student(folder: Path, classifier: Classifier) -> DistillationResult | None:
    """Return an earlier student of the same classifier; its facts were written last."""
    try:
        facts = parse_json((folder / FACTS).read_text(encoding="utf-8"))
        if facts["teacher"] != classifier.fingerprint:
            return None
        student = open_classifier(folder / CARD, device=classifier.device)
        return DistillationResult(student, float(facts["agreement"]))
    except (OSError, ValueError, KeyError, TypeError, ClassifierError):
        return None
