"""A student in place of a classifier without gradients, kept in the run folder."""

from __future__ import annotations

import json
from collections.abc import Callable
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
from apercu.training.data import TrainingImages, cache_in_memory

STUDENT, CARD, FACTS = "student", "card.json", "facts.json"


def distil_student(
    classifier: Classifier,
    source: ImageSource,
    run: Path,
    settings: StudentSettings,
    on_step: Callable[[int, float], None] | None = None,
) -> DistillationResult:
    """Return the student in `RUN/student`, which is distilled first if it is not there.

    Args:
        classifier: the classifier without gradients.
        source: the training images.
        run: the run folder.
        settings: how the student is distilled.
        on_step: called with the number of steps done and the loss.

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
    distilled = distil(
        classifier, cache_in_memory(TrainingImages(source, classifier)), settings, on_step
    )
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
