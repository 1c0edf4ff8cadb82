"""What one kind of trained explainer is: a record of everything that differs between the kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import nn

from apercu.classifiers import Classifier, StudentSettings
from apercu.errors import ClassifierError, ConfigError, suggest_nearest
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.settings import ExplainerSettings
from apercu.progress import ProgressCallback, ignore_progress
from apercu.training.config import ConfigPresets, Schedule
from apercu.training.data import FEWEST_JUDGED, TrainingImages

MIN_VIEWS = 0.05
"""Fraction of the images of the usual training below which an explainer does not look trained."""
LOOKS_TRAINED = "looks_trained"
"""Name of the fact that says whether an explainer looks trained: 1 or 0."""


def describe_doubts(run: object, doubts: Sequence[str]) -> str:
    """Return one line on an explainer that does not look trained.

    Args:
        run: name of the explainer, such as its run folder.
        doubts: why it does not look trained.

    Returns:
        The line.
    """
    return (
        f"{run}: does not look trained: {'; '.join(doubts)}; train on with --resume and a larger "
        "--steps"
    )


@dataclass(frozen=True)
class CardText:
    """What the card of a run says about its kind, for people to read.

    Attributes:
        title: name of the kind.
        training: how it was trained, as the beginning of a sentence.
        usage: how it is used.
    """

    title: str
    training: str
    usage: str


@runtime_checkable
class BuildNetwork(Protocol):
    """Builds the untrained network that settings describe.

    Args:
        settings: the settings of the kind.
        classifier_info: the explained classifier.
        backbone: the classifier whose layers become the encoder, if the settings say so.
        pretrained: whether pretrained weights are fetched.

    Raises:
        ConfigError: the network cannot be built so.
    """

    def __call__(
        self,
        settings: Any,
        classifier_info: ClassifierInfo,
        backbone: Classifier | None = None,
        *,
        pretrained: bool = True,
    ) -> nn.Module: ...


@runtime_checkable
class Measure(Protocol):
    """Measures a trained explainer on images held out, and may write figures into its run folder.

    Args:
        explainer: the trained explainer.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        run: the run folder.
        seed: seed of all draws.
        report: receives the name of each part of the work, how much is done, and how much there is.

    Returns:
        What was measured, by name.
    """

    def __call__(
        self,
        explainer: Any,
        classifier: Classifier,
        images: TrainingImages,
        run: Path,
        seed: int,
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]: ...


@runtime_checkable
class Finish(Protocol):
    """Completes an explainer after its training, by images held out.

    Args:
        explainer: the trained explainer, which is changed.
        classifier: the explained classifier itself, not its student.
        images: the images held out.
        report: receives the name of the work, the images that are done, and the images in all.

    Returns:
        What was chosen, by name.
    """

    def __call__(
        self,
        explainer: Any,
        classifier: Classifier,
        images: TrainingImages,
        report: ProgressCallback = ignore_progress,
    ) -> dict[str, float]: ...


def change_nothing(
    explainer: TrainedExplainer[Any, Any],
    classifier: Classifier,
    images: TrainingImages,
    report: ProgressCallback = ignore_progress,
) -> dict[str, float]:
    """Leave an explainer as its training left it."""
    return {}


@dataclass(frozen=True)
class ExplainerKind:
    """One kind of trained explainer.

    Args:
        name: the kind as people type it.
        presets: the class of its settings, and ready settings by name.
        explainer: the class of the explainer.
        build_network: builds its untrained network.
        build_training: builds its training module, from network, classifier, settings and seed.
        describe: returns what the card says, from the settings.
        measure: measures it after training.
        find_doubts: returns why an explainer does not look trained, from what was measured.
        open_backbone: returns the classifier whose layers become the encoder, or None, from the
            settings and the classifier to explain or its student.
        finish: completes it after training, before it is measured.
        needs_gradients: whether its training needs the classifier's gradients; a classifier without
            is replaced by a student.
        min_classes: the fewest classes of a classifier that it can explain.
        needs_one_class: whether exactly one class of an image must be predicted.
    """

    name: str
    presets: ConfigPresets[Any]
    explainer: type[TrainedExplainer[Any, Any]]
    build_network: BuildNetwork
    build_training: Callable[[Any, Classifier, Any, int], Any]
    describe: Callable[[Any], CardText]
    measure: Measure
    find_doubts: Callable[[Mapping[str, float]], list[str]]
    open_backbone: Callable[[Any, Classifier], Classifier | None]
    finish: Finish = change_nothing
    needs_gradients: bool = True
    min_classes: int = 1
    needs_one_class: bool = False

    def judge_training(
        self, settings: ExplainerSettings, facts: Mapping[str, float]
    ) -> list[str] | None:
        """Return why an explainer does not look trained.

        Args:
            settings: the settings of the training.
            facts: what was measured of it, by name.

        Returns:
            One phrase for each reason, none where it looks trained; None where too few images were
            held out to tell.
        """
        doubts = []
        full: Schedule = next(iter(self.presets.presets.values())).schedule
        views, usual = facts["steps"] * settings.schedule.batch, full.steps * full.batch
        if views < MIN_VIEWS * usual:
            doubts.append(
                f"it had {facts['steps']:.0f} steps of {settings.schedule.batch} images, and "
                f"{full.steps} of {full.batch} are usual"
            )
        if facts.get("student_agreement", 1.0) < StudentSettings.floor:
            doubts.append(
                "its student agrees with the classifier on only "
                f"{facts['student_agreement']:.0%} of images (a better one needs another --out)"
            )
        if facts["measured_images"] < FEWEST_JUDGED:
            return doubts or None
        return doubts + self.find_doubts(facts)

    def check_classifier(self, classifier: Classifier) -> None:
        """Raise ClassifierError for a classifier whose classes do not suit the kind."""
        classifier.require_classes()
        if self.needs_one_class and classifier.decision.is_multiple:
            raise ClassifierError(
                f"{classifier.spec}: a {self.name} explainer changes an image from one class into "
                f"another, and several of its classes may be predicted (output: "
                f"{classifier.output.name}); train a mask explainer, or wrap the classifier in a "
                "module that returns the logit of one class (output: sigmoid)"
            )
        if len(classifier.classes) < self.min_classes:
            raise ClassifierError(
                f"{classifier.spec}: expected at least {self.min_classes} classes to tell apart, "
                f"got {len(classifier.classes)}"
            )


KIND_NAMES = ("mask", "counterpart", "latent", "shapley")
"""Folders beside this file whose module `kind` holds a record, named as the folder in capitals."""


def find_kind(name: str) -> ExplainerKind:
    """Return the record of a kind, whose folder is imported when it is first needed.

    Raises:
        ConfigError: there is no such kind.
    """
    if name not in KIND_NAMES:
        raise ConfigError(
            f"kind: no explainer {name!r}, expected one of {', '.join(KIND_NAMES)}"
            f"{suggest_nearest(name, KIND_NAMES)}"
        )
    kind: ExplainerKind = getattr(import_module(f"apercu.explainers.{name}.kind"), name.upper())
    return kind
