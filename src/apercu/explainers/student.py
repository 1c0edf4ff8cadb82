"""A student in place of a classifier without gradients, kept in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

from apercu.classifiers import (
    Classifier,
    DistillationResult,
    StudentSettings,
    distil,
    open_classifier,
    save_classifier,
)
from apercu.errors import ClassifierError
from apercu.images import ImageSource
from apercu.io import write_file
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, cache_in_memory

STUDENT, CARD, FACTS = "student", "card.json", "facts.json"


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
    distilled = distil(classifier, images, settings, report=report, folder=run / "checkpoints")
    save_classifier(distilled.student, folder)
    facts = {"teacher": classifier.fingerprint, "agreement": distilled.agreement}
    write_file(folder / FACTS, json.dumps(facts, indent=1))
    return distilled


def _load_student(folder: Path, classifier: Classifier) -> DistillationResult | None:
    """Return an earlier student of the same classifier; its facts were written last."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        if facts["teacher"] != classifier.fingerprint:
            return None
        student = open_classifier(folder / CARD, device=classifier.device)
        return DistillationResult(student, float(facts["agreement"]))
    except (OSError, ValueError, KeyError, ClassifierError):
        return None
