"""A student in place of a classifier without gradients, kept in the run folder."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
from pydantic import TypeAdapter

from apercu.classifiers import (
    Classifier,
    DistillationResult,
    StudentSettings,
    distil,
    open_classifier,
    save_classifier,
)
from apercu.classifiers.card import CARD_FILE
from apercu.classifiers.distillation import estimate_seconds
from apercu.classifiers.distillation_data import compute_agreement, stack_images
from apercu.errors import ClassifierError, ConfigError, RunError
from apercu.explainers.kind import ExplainerKind
from apercu.images import ImageSource
from apercu.io import parse_json, write_file, write_json
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.data import TrainingImages, cache_in_memory, split_held_out
from apercu.training.trainer import Trainer

STUDENT, FACTS = "student", "facts.json"
"""Folder of a finished student, and the file there that says how it was distilled."""
BEGUN, SETTINGS = "checkpoints", "student.json"
"""Folder of a student that was begun, and the file there with its settings."""
_BATCH = 32


@dataclass(frozen=True)
class StudentPlan:
    """The settings of a student, and the steps of the training that it is for.

    Args:
        steps: steps of the explainer's own training.
        student: settings of the student.
        is_chosen: whether somebody chose them, so that they stay whatever the steps are.
    """

    steps: int
    student: StudentSettings
    is_chosen: bool = False


def plan_student(
    run: Path,
    full: StudentPlan,
    steps: int,
    chosen: StudentSettings | None = None,
    student_steps: int | None = None,
) -> StudentSettings:
    """Return how a student is distilled: a shorter training gets a shorter student in proportion.

    A student of a shorter training is accepted however seldom it agrees with the classifier, and so
    is one of a chosen number of steps.

    Args:
        run: the run folder; what was planned there before is the start.
        full: the plan of a training of full length.
        steps: steps of the explainer's own training.
        chosen: settings that somebody chose; None takes those of the plan.
        student_steps: steps of the student that somebody chose; None takes those of the settings.

    Returns:
        The settings; those of a finished student, where there is one.

    Raises:
        RunError: the stored plan is damaged, or a finished student has other settings than chosen.
    """
    plan, path = full, run / BEGUN / SETTINGS
    finished = _read_finished(run / STUDENT)
    is_stored = path.is_file()
    if is_stored:
        try:
            plan = TypeAdapter(StudentPlan).validate_json(path.read_bytes())
        except (OSError, ValueError) as error:
            raise RunError(f"{path}: cannot be read; choose another --out") from error
    if chosen is not None or student_steps is not None:
        student = chosen or finished or plan.student
        if student_steps is not None:
            student = replace(student, steps=student_steps, floor=0.0)
        _check_finished(run, finished, student)
        write_json(path, asdict(StudentPlan(steps, student, is_chosen=True)))
        return student
    if finished is not None:
        return finished
    if is_stored and (plan.is_chosen or steps == plan.steps):
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
    distilled = distil(classifier, images, settings, report=report, folder=run / BEGUN)
    save_classifier(distilled.student, folder)
    facts = {
        "teacher": classifier.fingerprint,
        "agreement": distilled.agreement,
        "settings": asdict(settings),
    }
    write_file(folder / FACTS, json.dumps(facts, indent=1))
    return distilled


def check_student_options(
    kind: ExplainerKind,
    classifier: Classifier,
    student: StudentSettings | Classifier | str | Path | None,
    student_steps: int | None,
) -> None:
    """Refuse options of a student that have no effect.

    Args:
        kind: the kind of explainer that is trained.
        classifier: the explained classifier.
        student: the settings of a student, or a classifier that stands in, if either is given.
        student_steps: steps of the student, if they are given.

    Raises:
        ConfigError: no student is needed, or a finished one has steps.
    """
    if classifier.differentiable or not kind.needs_gradients:
        reason = f"a {kind.name} explainer needs none"
        if kind.needs_gradients:
            reason = f"{classifier.spec} gives gradients itself"
        raise ConfigError(
            f"student: expected none, as {reason}; leave out --student and --student-steps"
        )
    if isinstance(student, Classifier | str | Path) and student_steps is not None:
        raise ConfigError(
            "student: --student names a finished one, so --student-steps has no effect; "
            "leave out one of the two"
        )


def open_student(
    student: Classifier | str | Path, classifier: Classifier, *, trust: bool = False
) -> Classifier:
    """Open a classifier that stands in for one without gradients.

    Args:
        student: the student, or its SPEC, such as `RUN/student/card.json` of an earlier run.
        classifier: the classifier without gradients.
        trust: whether a card may name a factory, whose code is run.

    Returns:
        The student.

    Raises:
        ClassifierError: it gives no gradients either, or takes other images, has other classes, or
            decides in another way how many of them are true.
    """
    if not isinstance(student, Classifier):
        student = open_classifier(student, device=classifier.device, trust=trust)
    if not student.differentiable:
        raise ClassifierError(
            f"student: {student.spec} gives no gradients, and a student needs them; "
            "name a network of PyTorch"
        )
    of_student, of_classifier = (
        f"{c.channels} × {c.size[0]} × {c.size[1]} and {len(c.classes)} classes"
        for c in (student, classifier)
    )
    if of_student != of_classifier:
        raise ClassifierError(
            f"student: expected images of {of_classifier}, as {classifier.spec} has them, got "
            f"{of_student} of {student.spec}"
        )
    difference = _find_difference(student, classifier)
    if difference is not None:
        raise ClassifierError(
            f"student: {student.spec} cannot stand in for {classifier.spec}: {difference}"
        )
    return student


def _find_difference(student: Classifier, classifier: Classifier) -> str | None:
    """Return what a student of the same size and number of classes means otherwise, if anything.

    Mean and deviation may differ, as each normalises pixels in [0, 1] by itself.
    """
    if student.decision.is_multiple != classifier.decision.is_multiple:
        words = "one class of an image is true", "each class by itself"
        return (
            f"expected output with {words[classifier.decision.is_multiple]}, "
            f"got {words[student.decision.is_multiple]} ({student.output.name})"
        )
    of_student, of_classifier = student.network.input, classifier.network.input
    if of_student.stretch != of_classifier.stretch:
        return f"expected stretch {of_classifier.stretch}, got {of_student.stretch}"
    if of_student.takes_raw_counts != of_classifier.takes_raw_counts:
        return f"expected normalise {of_classifier.normalise}, got {of_student.normalise}"
    if of_student.bands and of_classifier.bands and of_student.bands != of_classifier.bands:
        return f"expected bands {of_classifier.bands}, got {of_student.bands}"
    if student.network.names is None or classifier.network.names is None:  # numbered ones
        return None
    for index, name in enumerate(student.classes):
        expected = classifier.classes[index]
        first, second = (text.partition(",")[0].strip().casefold() for text in (name, expected))
        if first != second and student.identifiers[index] != classifier.identifiers[index]:
            return (
                f"expected class {index} to be {expected!r}, got {name!r}; name the same classes "
                "in the same order"
            )
    return None


def measure_agreement(
    classifier: Classifier, student: Classifier, source: ImageSource, seed: int
) -> float:
    """Return how often a student agrees with a classifier on images held out.

    Args:
        classifier: the classifier.
        student: the student.
        source: the training images.
        seed: seed of the split.

    Returns:
        A fraction.
    """
    indices = split_held_out(len(source), seed).held_out
    images = TrainingImages(source, classifier, indices)
    batches = (
        stack_images(images, rows).to(classifier.device)
        for rows in torch.split(torch.arange(len(images)), _BATCH)
    )
    return compute_agreement(student, classifier, batches)


def describe_price(classifier: Classifier, count: int, settings: StudentSettings) -> str:
    """Return one line on what a student costs, before it is distilled.

    Args:
        classifier: the classifier without gradients.
        count: number of training images.
        settings: how the student is distilled.

    Returns:
        The line: queries, steps, and the time that they will take here.
    """
    seconds = estimate_seconds(classifier, count, settings)
    time = f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
    return (
        f"{classifier.spec} gives no gradients{classifier.gradient_reason}; a student is trained "
        f"to predict the same: {2 * count} queries of the classifier and {settings.steps} steps of "
        f"{min(settings.batch, count)} images, about {time} (--student-steps changes that, "
        "--student SPEC takes another classifier)"
    )


def use_student(trainer: Trainer, student: Classifier) -> tuple[Trainer, dict[str, float]]:
    """Let a classifier that was given stand in for one without gradients.

    Args:
        trainer: the trainer, whose classifier gives no gradients.
        student: the classifier that stands in.

    Returns:
        The trainer with the student, and how often the two agree, as a fact.
    """
    classifier = trainer.classifier
    agreement = measure_agreement(classifier, student, trainer.source, trainer.seed)
    trainer.say(
        f"{classifier.spec} gives no gradients{classifier.gradient_reason}; {student.spec} stands "
        f"in for it, and agrees with it on {agreement:.1%} of held-out images"
    )
    if agreement < StudentSettings.floor:
        trainer.say(
            f"warning: expected at least {StudentSettings.floor:.0%}; where the two disagree, "
            "maps explain the student and not the classifier"
        )
    return replace(trainer, classifier=student), {"student_agreement": agreement}


def use_distilled_student(
    trainer: Trainer, settings: StudentSettings
) -> tuple[Trainer, dict[str, float]]:
    """Distil a student of a classifier without gradients, and let it stand in.

    A finished student in the run folder is taken as it is.

    Args:
        trainer: the trainer, whose classifier gives no gradients.
        settings: how the student is distilled.

    Returns:
        The trainer with the student, and how often the two agree, as a fact.

    Raises:
        ImagesError: too few images to learn from.
        ClassifierError: the student agrees with the classifier less often than the floor.
        OutputError: the folder cannot be written.
    """
    classifier = trainer.classifier
    if has_student(trainer.run, classifier):
        trainer.say("student: the finished student of this run is used")
    else:
        trainer.say(describe_price(classifier, len(trainer.source), settings))
    student, agreement = distil_student(
        classifier, trainer.source, trainer.run, settings, trainer.report
    )
    trainer.say(f"student: agrees with the classifier on {agreement:.1%} of held-out images")
    if agreement < StudentSettings.floor:
        trainer.say(
            f"warning: the student is not trained enough (expected {StudentSettings.floor:.0%}); "
            "a better one needs another --out, with more steps or --student-steps"
        )
    return replace(trainer, classifier=student), {"student_agreement": agreement}


def has_student(run: Path, classifier: Classifier) -> bool:
    """Whether a run folder holds a finished student of this classifier."""
    return _load_student(run / STUDENT, classifier) is not None


def _read_finished(folder: Path) -> StudentSettings | None:
    """Return the settings of a finished student; None where there are none, as in old folders."""
    try:
        facts = parse_json((folder / FACTS).read_text(encoding="utf-8"))
        return TypeAdapter(StudentSettings).validate_python(facts["settings"])
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def _check_finished(run: Path, finished: StudentSettings | None, chosen: StudentSettings) -> None:
    """Raise RunError where a finished student has other settings than those that are chosen."""
    for field in fields(StudentSettings) if finished is not None else ():
        before, now = getattr(finished, field.name), getattr(chosen, field.name)
        if before != now and field.name not in ("floor", "seed"):  # the seed is the training's
            raise RunError(
                f"{run / STUDENT}: the student here had {field.name} {before}, now {now}; leave it "
                "out, or choose another --out for another student"
            )


def _load_student(folder: Path, classifier: Classifier) -> DistillationResult | None:
    """Return an earlier student of the same classifier; its facts were written last."""
    try:
        facts = parse_json((folder / FACTS).read_text(encoding="utf-8"))
        if facts["teacher"] != classifier.fingerprint:
            return None
        student = open_classifier(folder / CARD_FILE, device=classifier.device)
        return DistillationResult(student, float(facts["agreement"]))
    except (OSError, ValueError, KeyError, TypeError, ClassifierError):
        return None
