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
from apercu.explainers.changing import ChangingExplainer
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.explainer import CounterpartExplainer
from apercu.explainers.counterpart.measure import measure_counterparts
from apercu.explainers.counterpart.network import CounterpartNetwork
from apercu.explainers.counterpart.training import CounterpartTraining
from apercu.explainers.latent.explainer import LatentExplainer
from apercu.explainers.latent.network import LatentNetwork
from apercu.explainers.latent.training import LatentTraining
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.mask.levels import absent_area, measure_dial, write_dial
from apercu.explainers.mask.network import MaskingNetwork
from apercu.explainers.mask.training import MaskTraining
from apercu.explainers.run_folder import CLASSIFIER, CONFIG, WEIGHTS
from apercu.io import write
from apercu.training.data import TrainingImages, parts
from apercu.training.module import Training
from apercu.training.phases import batches
from apercu.training.settings import (
    CounterpartSettings,
    GatedSettings,
    LatentSettings,
    MaskSettings,
    TrainingSettings,
)
from apercu.training.trainer import Fit


def new_network(settings: TrainingSettings, classifier: Classifier, seed: int) -> nn.Module:
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
    backbone, passport = _backbone(settings, classifier), ClassifierInfo.of(classifier)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_network(settings, passport, backbone)


def train_mask(
    settings: MaskSettings,
    fit: Fit,
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
    passport = ClassifierInfo.of(classifier)
    network = cast(MaskingNetwork, network or new_network(settings, fit.classifier, fit.seed))
    _claim(fit.run, settings, passport)
    explainer = MaskExplainer(network, passport, settings, {})
    facts = fit(MaskTraining(network, fit.classifier, settings, fit.seed))
    explainer.facts |= {name: value for name, value in facts.items() if isfinite(value)}
    if not fit.leads:
        return explainer
    explainer.facts |= _measure(explainer, fit, classifier)
    explainer.save_pretrained(fit.run)
    return explainer


def train_counterpart(
    settings: CounterpartSettings,
    fit: Fit,
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
    passport = ClassifierInfo.of(classifier)
    made = network or new_network(settings, fit.classifier, fit.seed)
    generators = cast(CounterpartNetwork, made)
    _claim(fit.run, settings, passport)
    explainer = CounterpartExplainer(generators, passport, settings, {})
    training = CounterpartTraining(generators, fit.classifier, settings, fit.seed)
    _change(explainer, classifier, fit, training)
    return explainer


def train_latent(
    settings: LatentSettings,
    fit: Fit,
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
    passport = ClassifierInfo.of(classifier)
    coder = cast(LatentNetwork, network or new_network(settings, classifier, fit.seed))
    _claim(fit.run, settings, passport)
    explainer = LatentExplainer(coder, passport, settings, {})
    _change(explainer, classifier, fit, LatentTraining(coder, classifier, settings, fit.seed))
    return explainer


def _change(
    explainer: ChangingExplainer[Any, Any], classifier: Classifier, fit: Fit, training: Training
) -> None:
    """Fits an explainer that changes images, measures it on images held out, and saves it."""
    facts = fit(training)
    explainer.facts |= {name: value for name, value in facts.items() if isfinite(value)}
    if not fit.leads:
        return
    held_out = parts(len(fit.source), fit.seed)[1]
    images = TrainingImages(fit.source, classifier, held_out)
    explainer.to(classifier.device)
    shown = batches(images, len(images))
    explainer.facts |= measure_counterparts(explainer, classifier, shown)
    explainer.facts["measured_images"] = float(len(images))
    explainer.save_pretrained(fit.run)


def _measure(explainer: MaskExplainer, fit: Fit, classifier: Classifier) -> dict[str, float]:
    """Writes the dial's curve beside the run, and returns what the run's facts should say.

    All on images that were kept from training, and by the classifier itself, not its student.
    """
    held_out = parts(len(fit.source), fit.seed)[1]
    images = TrainingImages(fit.source, classifier, held_out)
    explainer.to(classifier.device)
    points = measure_dial(explainer, classifier, batches(images, len(images)))
    write_dial(points, fit.run)
    middle = min(points, key=lambda point: abs(point.level - 0.5))
    best = min(points, key=lambda point: point.saliency_metric)
    return {
        "area_true": middle.area,
        "area_absent": absent_area(explainer, batches(images, len(images)), fit.seed),
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


def _backbone(settings: TrainingSettings, classifier: Classifier) -> Classifier | None:
    """The classifier whose layers become the encoder, if the settings want one."""
    if not isinstance(settings, GatedSettings):
        return None
    if settings.encoder == "own":
        return classifier
    if settings.encoder == "small" or settings.encoder.startswith(TIMM):
        return None
    return open_classifier(settings.encoder)


def _claim(run: Path, settings: TrainingSettings, passport: ClassifierInfo) -> None:
    """Writes down what is trained here, or checks that it is what was begun."""
    if (run / WEIGHTS).is_file():
        raise RunError(f"{run}: holds a finished training; choose another --out")
    plan: dict[str, TrainingSettings | ClassifierInfo] = {CONFIG: settings, CLASSIFIER: passport}
    for name, content in plan.items():
        path = run / name
        if not path.is_file():
            write(path, content.model_dump_json(indent=1))
        elif _stored(path, type(content)) != content:
            raise RunError(f"{path}: the training begun here had other settings; use those")


def _stored(path: Path, kind: type[BaseModel]) -> BaseModel:
    """What a begun training wrote down; raises RunError where it is damaged."""
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error
