"""From a classifier and images to a trained explainer in a run folder."""

from __future__ import annotations

from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel, ValidationError
from torch import nn

from apercu.classifiers import Classifier, open_classifier
from apercu.errors import ClassifierError, RunError
from apercu.explainers.build import TIMM, build_network
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterfactual import CounterfactualExplainer
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.measure import measure_counterparts
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.counterpart.training import CounterpartTraining
from apercu.explainers.embedding_training import shuffled_batches
from apercu.explainers.latent.explainer import LatentExplainer
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.latent.training import LatentTraining
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.levels import measure_absent_area, measure_levels, write_level_curve
from apercu.explainers.mask.network import MaskNetwork
from apercu.explainers.mask.settings import MaskSettings
from apercu.explainers.mask.training import MaskTraining
from apercu.explainers.run_folder import CLASSIFIER, CONFIG, WEIGHTS
from apercu.explainers.settings import ExplainerSettings, GatedSettings
from apercu.io import write_file
from apercu.training.data import TrainingImages, split_held_out
from apercu.training.module import TrainingModule
from apercu.training.trainer import Trainer


def build_untrained(settings: ExplainerSettings, classifier: Classifier, seed: int) -> nn.Module:
    """The untrained network of an explainer.

    Args:
        settings: they name the explainer, its encoder and its decoder.
        classifier: the one to explain, or its student; `own` takes its layers.
        seed: of the first weights.

    Raises:
        ConfigError: the encoder cannot be built, or does not fit the classifier.
    """
    if isinstance(settings, CounterpartSettings | LatentSettings):
        check_classes(classifier)
    backbone, passport = (
        _open_backbone(settings, classifier),
        ClassifierInfo.from_classifier(classifier),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(settings, passport, backbone)


def train_mask(
    settings: MaskSettings,
    trainer: Trainer,
    classifier: Classifier,
    network: nn.Module | None = None,
) -> MaskExplainer:
    """Trains a mask explainer and leaves it in the run folder.

    On several devices the first process measures and writes; the others end with the fit.

    Args:
        settings: what is trained.
        fit: on which images, where, for how long; its classifier has gradients.
        classifier: whose explainer it is; differs from `fit.classifier` when that is a student.
        network: from `new_network`, where that was made before anything was written.

    Raises:
        ConfigError: the encoder does not fit the classifier.
        RunError: the folder holds a finished training, or one of other settings.
    """
    passport = ClassifierInfo.from_classifier(classifier)
    network = cast(
        MaskNetwork, network or build_untrained(settings, trainer.classifier, trainer.seed)
    )
    _record_settings(trainer.run, settings, passport)
    explainer = MaskExplainer(network, passport, settings, {})
    facts = trainer(MaskTraining(network, trainer.classifier, settings, trainer.seed))
    explainer.facts |= {name: value for name, value in facts.items() if isfinite(value)}
    if not trainer.is_main_process:
        return explainer
    explainer.facts |= measure_masks(explainer, trainer, classifier)
    explainer.save_pretrained(trainer.run)
    return explainer


def train_counterpart(
    settings: CounterpartSettings,
    trainer: Trainer,
    classifier: Classifier,
    network: nn.Module | None = None,
) -> CounterpartExplainer:
    """Trains a counterpart explainer and leaves it in the run folder; see `train_mask`.

    Raises:
        ClassifierError: the classifier has a single class.
        ConfigError: the encoder does not fit the classifier.
        RunError: the folder holds a finished training, or one of other settings.
    """
    check_classes(classifier)
    passport = ClassifierInfo.from_classifier(classifier)
    made = network or build_untrained(settings, trainer.classifier, trainer.seed)
    generators = cast(CounterpartNetwork, made)
    _record_settings(trainer.run, settings, passport)
    explainer = CounterpartExplainer(generators, passport, settings, {})
    training = CounterpartTraining(generators, trainer.classifier, settings, trainer.seed)
    _train_counterfactual(explainer, classifier, trainer, training)
    return explainer


def train_latent(
    settings: LatentSettings,
    trainer: Trainer,
    classifier: Classifier,
    network: nn.Module | None = None,
) -> LatentExplainer:
    """Trains a latent explainer and leaves it in the run folder; see `train_mask`.

    The classifier is asked and never looked into, so it needs no gradients and no student.

    Raises:
        ClassifierError: the classifier has a single class.
        RunError: the folder holds a finished training, or one of other settings.
    """
    check_classes(classifier)
    passport = ClassifierInfo.from_classifier(classifier)
    coder = cast(LatentNetwork, network or build_untrained(settings, classifier, trainer.seed))
    _record_settings(trainer.run, settings, passport)
    explainer = LatentExplainer(coder, passport, settings, {})
    _train_counterfactual(
        explainer, classifier, trainer, LatentTraining(coder, classifier, settings, trainer.seed)
    )
    return explainer


def _train_counterfactual(
    explainer: CounterfactualExplainer[Any, Any],
    classifier: Classifier,
    trainer: Trainer,
    training: TrainingModule,
) -> None:
    """Fits an explainer that changes images, measures it on images held out, and saves it."""
    facts = trainer(training)
    explainer.facts |= {name: value for name, value in facts.items() if isfinite(value)}
    if not trainer.is_main_process:
        return
    held_out = split_held_out(len(trainer.source), trainer.seed)[1]
    images = TrainingImages(trainer.source, classifier, held_out)
    explainer.to(classifier.device)
    shown = shuffled_batches(images, len(images))
    explainer.facts |= measure_counterparts(explainer, classifier, shown)
    explainer.facts["measured_images"] = float(len(images))
    explainer.save_pretrained(trainer.run)


def measure_masks(
    explainer: MaskExplainer, trainer: Trainer, classifier: Classifier
) -> dict[str, float]:
    """Writes the dial's curve beside the run, and returns what the run's facts should say.

    All on images that were kept from training, and by the classifier itself, not its student.
    """
    held_out = split_held_out(len(trainer.source), trainer.seed)[1]
    images = TrainingImages(trainer.source, classifier, held_out)
    explainer.to(classifier.device)
    points = measure_levels(explainer, classifier, shuffled_batches(images, len(images)))
    write_level_curve(points, trainer.run)
    middle = min(points, key=lambda point: abs(point.level - 0.5))
    best = min(points, key=lambda point: point.saliency_metric)
    return {
        "area_true": middle.area,
        "area_absent": measure_absent_area(
            explainer, shuffled_batches(images, len(images)), trainer.seed
        ),
        "measured_images": float(len(images)),
        "kept_probability": middle.kept,
        "removed_probability": middle.removed,
        "saliency_metric": best.saliency_metric,
        "saliency_level": best.level,
    }


def check_classes(classifier: Classifier) -> None:
    """Raises ClassifierError for a classifier that has nothing to change into."""
    if len(classifier.classes) < 2:
        raise ClassifierError(
            f"{classifier.spec}: expected at least 2 classes to change between, got 1"
        )


def _open_backbone(settings: ExplainerSettings, classifier: Classifier) -> Classifier | None:
    """The classifier whose layers become the encoder, if the settings want one."""
    if not isinstance(settings, GatedSettings):
        return None
    if settings.encoder == "own":
        return classifier
    if settings.encoder == "small" or settings.encoder.startswith(TIMM):
        return None
    return open_classifier(settings.encoder)


def _record_settings(
    run: Path, settings: ExplainerSettings, classifier_info: ClassifierInfo
) -> None:
    """Writes down what is trained here, or checks that it is what was begun."""
    if (run / WEIGHTS).is_file():
        raise RunError(f"{run}: holds a finished training; choose another --out")
    plan: dict[str, ExplainerSettings | ClassifierInfo] = {
        CONFIG: settings,
        CLASSIFIER: classifier_info,
    }
    for name, content in plan.items():
        path = run / name
        if not path.is_file():
            write_file(path, content.model_dump_json(indent=1))
        elif _read_stored(path, type(content)) != content:
            raise RunError(f"{path}: the training begun here had other settings; use those")


def _read_stored(path: Path, kind: type[BaseModel]) -> BaseModel:
    """What a begun training wrote down; raises RunError where it is damaged."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error
