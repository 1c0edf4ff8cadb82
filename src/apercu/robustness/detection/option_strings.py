"""Feature extractors and detectors by the names that people type."""

from __future__ import annotations

from typing import Any

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.base import TrainedExplainer
from apercu.methods import TrueBox
from apercu.methods.registry import METHODS, parse_methods
from apercu.option_strings import parse_named, split_names
from apercu.robustness.attacks import Attack
from apercu.robustness.detection.detectors import DETECTORS, Detector
from apercu.robustness.detection.features import (
    DeepFeatures,
    FeatureExtractor,
    MapFeatures,
    MethodMapFeatures,
    StabilityFeatures,
)
from apercu.robustness.plan import find_objective_name, parse_attack, parse_filter

MAP, STABILITY, DEEP = "map", "stability", "deep"
TRAINED = (MAP, STABILITY)
"""Features of a trained explainer; `stability:FILTER` names the filter."""


def parse_detectors(text: str, seed: int) -> dict[str, Detector]:
    """Parse the names of detectors, such as `autoencoder:steps=600,mahalanobis`.

    Args:
        text: names with settings.
        seed: seed of the detectors, unless their settings have one.

    Returns:
        Detectors by name.

    Raises:
        ConfigError: there is no such detector or setting.
    """
    names = split_names(text, "detectors", DETECTORS)
    return {name: parse_named(name, DETECTORS, "detectors", seed=seed) for name in names}


def parse_class_attacks(text: str, seed: int) -> dict[str, Attack]:
    """Parse the names of attacks on the class, such as `fgsm,pgd:steps=20`.

    Args:
        text: names with settings.
        seed: seed of the attacks, unless their settings have one.

    Returns:
        Attacks by name.

    Raises:
        ConfigError: there is no such attack or setting, or it has another objective.
    """
    names = split_names(text, "attacks", ())
    if other := next((name for name in names if find_objective_name(name) != "class"), None):
        raise ConfigError(f"attacks: {other} is for apercu stress; expected attacks on the class")
    return {name: parse_attack(name, seed) for name in names}


def parse_extractors(
    text: str | None, classifier: Classifier, explainer: TrainedExplainer[Any, Any] | None
) -> dict[str, FeatureExtractor]:
    """Parse the names of feature extractors, such as `map,stability:median,cam`.

    Args:
        text: names; None for all that the classifier and the explainer allow.
        classifier: classifier that is attacked.
        explainer: explainer that was trained for it.

    Returns:
        Feature extractors by name.

    Raises:
        ConfigError: there is no such extractor or method, it needs a trained explainer, or none is
            possible.
        ClassifierError: the explainer was trained for another classifier.
    """
    if explainer is not None:
        explainer.classifier_info.check_classifier(classifier)
    if text is None:
        names = [*(TRAINED if explainer else ()), *((DEEP,) if classifier.module else ())]
        if not names:
            raise ConfigError(
                f"looks: no features are possible for {classifier.spec}; give --explainer, "
                "or --looks METHOD"
            )
    else:
        names = split_names(text, "looks", (*TRAINED, DEEP, *METHODS))
    return {name: _build_extractor(name, classifier, explainer) for name in names}


def _build_extractor(
    name: str, classifier: Classifier, explainer: TrainedExplainer[Any, Any] | None
) -> FeatureExtractor:
    kind, _, settings = name.partition(":")
    if name == MAP or kind == STABILITY:
        if explainer is None:
            raise ConfigError(f"looks: {kind} needs a trained explainer; give --explainer")
        if kind == MAP:
            return MapFeatures(classifier, explainer)
        return _build_stability(classifier, explainer, settings)
    if name == DEEP:
        return DeepFeatures(classifier)
    valid_names = (*TRAINED, DEEP, *METHODS)
    if kind not in METHODS:
        raise ConfigError(
            f"looks: expected some of {', '.join(valid_names)}, got {name}"
            f"{suggest_nearest(name, valid_names)}"
        )
    method = parse_methods(name)[name]
    if isinstance(method, TrueBox):
        raise ConfigError(f"looks: {name} shows the true box, and computes no map of its own")
    return MethodMapFeatures(classifier, method)


def _build_stability(
    classifier: Classifier, explainer: TrainedExplainer[Any, Any], filter_name: str
) -> FeatureExtractor:
    if not filter_name:
        return StabilityFeatures(classifier, explainer)
    filter = parse_filter(filter_name)
    if filter is None:
        raise ConfigError("looks: stability needs a filter that changes images, got none")
    return StabilityFeatures(classifier, explainer, filter)
