"""The names of looks and detectors on the command line."""

from __future__ import annotations

from typing import Any

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.base import TrainedExplainer
from apercu.methods import TrueBox
from apercu.methods.registry import METHODS, parse_methods
from apercu.option_strings import parse_named, split_names
from apercu.robustness.detection import (
    DeepFeatures,
    Detector,
    FeatureExtractor,
    MapFeatures,
    MethodMapFeatures,
)
from apercu.robustness.detection.detectors import DETECTORS
from apercu.robustness.detection.features import StabilityFeatures
from apercu.robustness.plan import parse_filter

MAP, STABILITY = "map", "stability"
TRAINED = (MAP, STABILITY)
"""Looks through a trained explainer; `stability:FILTER` says what the map should stand."""
DEEP = "deep"


def parse_detectors(text: str, seed: int) -> dict[str, Detector]:
    """Detectors by their names with settings; they draw from `seed` unless they say their own.

    Raises:
        ConfigError: no such detector or setting.
    """
    names = split_names(text, "detectors", DETECTORS)
    return {name: parse_named(name, DETECTORS, "detectors", seed=seed) for name in names}


def parse_extractors(
    text: str | None, classifier: Classifier, explainer: TrainedExplainer[Any, Any] | None
) -> dict[str, FeatureExtractor]:
    """Looks by their names; without any, those that the classifier and the explainer allow.

    Raises:
        ConfigError: no such look or method, one that needs a trained explainer, or none at all.
        ClassifierError: the explainer was trained for another classifier.
    """
    if explainer is not None:
        explainer.classifier_info.check_classifier(classifier)
    if text is None:
        names = [*(TRAINED if explainer else ()), *((DEEP,) if classifier.module else ())]
        if not names:
            raise ConfigError(
                f"looks: no look is possible for {classifier.spec}; give --explainer, "
                "or --looks METHOD"
            )
    else:
        names = split_names(text, "looks", (*TRAINED, DEEP, *METHODS))
    return {name: _build_extractor(name, classifier, explainer) for name in names}


def _build_extractor(
    name: str, classifier: Classifier, explainer: TrainedExplainer[Any, Any] | None
) -> FeatureExtractor:
    word, _, rest = name.partition(":")
    if name == MAP or word == STABILITY:
        if explainer is None:
            raise ConfigError(f"looks: {word} needs a trained explainer; give --explainer")
        return _build_trained_extractor(explainer, classifier, word, rest)
    if name == DEEP:
        return DeepFeatures(classifier)
    known = (*TRAINED, DEEP, *METHODS)
    if word not in METHODS:
        raise ConfigError(
            f"looks: expected some of {', '.join(known)}, got {name}{suggest_nearest(name, known)}"
        )
    method = parse_methods(name)[name]
    if isinstance(method, TrueBox):
        raise ConfigError(f"looks: {name} is told the truth, and has no look of its own")
    return MethodMapFeatures(classifier, method)


def _build_trained_extractor(
    explainer: TrainedExplainer[Any, Any], classifier: Classifier, word: str, rest: str
) -> FeatureExtractor:
    if word == MAP:
        return MapFeatures(classifier, explainer)
    if not rest:
        return StabilityFeatures(classifier, explainer)
    filter = parse_filter(rest)
    if filter is None:
        raise ConfigError("looks: stability needs a filter that changes images, got none")
    return StabilityFeatures(classifier, explainer, filter)
