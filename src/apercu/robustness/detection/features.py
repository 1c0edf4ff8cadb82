"""Features that detectors use: the map of an image, its stability, or deep features."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.errors import ConfigError, suggest_nearest
from apercu.explainers.base import TrainedExplainer
from apercu.filters import Filter, Jpeg, parse_filter
from apercu.methods import MapExplainer, TrueBox
from apercu.methods.layers import compute_deep_features
from apercu.methods.own import OWN_FORM, split_own
from apercu.methods.registry import METHODS, parse_methods
from apercu.option_strings import parse_named, split_names
from apercu.robustness.attacks import Attack
from apercu.robustness.detection.detectors import DETECTORS, Detector
from apercu.robustness.detection.detectors.base import Features
from apercu.robustness.plan import find_objective_name, parse_attack
from apercu.statistics import spearman
from apercu.types import Images, Maps, Scores

TOP_CLASSES = 5
"""Number of the most probable classes whose logits are features."""
MAP_SIDE = 7
"""Rows and columns over which the map of a method is averaged."""


class FeatureExtractor(ABC):
    """Computes features of images; maps are those of the predicted class."""

    @abstractmethod
    def __call__(self, images: Images) -> Features:
        """Compute the features, one row per image, on the CPU."""


@final
@dataclass(frozen=True, eq=False)
class MapFeatures(FeatureExtractor):
    """The trained explainer's map of the predicted class, and its logits of the top classes.

    They take two passes of the explainer's encoder: one for the map, one for the logits.

    Args:
        classifier: classifier that predicts the classes.
        explainer: explainer that was trained for the classifier.
    """

    classifier: Classifier
    explainer: TrainedExplainer[Any, Any]

    def __call__(self, images: Images) -> Features:
        top = find_top_classes(self.classifier, images)
        maps = self.explainer.attribute(images, top[:, 0])
        logits = self.explainer.predict_logits(images).gather(1, top)
        return torch.cat([_summarise_maps(maps), logits], 1).cpu()


@final
@dataclass(frozen=True, eq=False)
class StabilityFeatures(FeatureExtractor):
    """How the map and the explainer's logits change when the image is filtered mildly.

    An attack only works for one exact image; the explanation of a real object is stable. These
    features cost twice as much as `MapFeatures`.

    Args:
        classifier: classifier that predicts the classes, before the image is filtered.
        explainer: explainer that was trained for the classifier.
        filter: mild filter.
    """

    classifier: Classifier
    explainer: TrainedExplainer[Any, Any]
    filter: Filter = Jpeg(75)  # noqa: RUF009 a frozen value

    def __call__(self, images: Images) -> Features:
        top = find_top_classes(self.classifier, images)
        filtered = self.filter(images)
        maps = [self.explainer.attribute(inputs, top[:, 0]) for inputs in (images, filtered)]
        logits = [
            self.explainer.predict_logits(inputs).gather(1, top) for inputs in (images, filtered)
        ]
        change = torch.stack(
            [
                spearman(*(_coarsen(map, 2 * MAP_SIDE).flatten(1) for map in maps)),
                (maps[0] - maps[1]).abs().mean((1, 2)),
            ],
            1,
        )
        return torch.cat(
            [change, _summarise_maps(maps[0]) - _summarise_maps(maps[1]), logits[0] - logits[1]], 1
        ).cpu()


@final
@dataclass(frozen=True, eq=False)
class MethodMapFeatures(FeatureExtractor):
    """The sorted values of the map of a method that queries the classifier.

    Args:
        classifier: classifier that the method explains.
        method: method such as CAM.
    """

    classifier: Classifier
    method: MapExplainer

    def __call__(self, images: Images) -> Features:
        predicted = find_top_classes(self.classifier, images)[:, 0]
        maps = self.method(self.classifier, images, predicted)
        return _coarsen(maps, MAP_SIDE).flatten(1).sort(1, descending=True).values.cpu()


@final
@dataclass(frozen=True, eq=False)
class DeepFeatures(FeatureExtractor):
    """The classifier's last features, averaged over the image (Rippel et al. 2020).

    Args:
        classifier: classifier whose layers are accessible.
    """

    classifier: Classifier

    def __call__(self, images: Images) -> Features:
        return compute_deep_features(self.classifier, images).cpu()


@torch.no_grad()
def find_top_classes(classifier: Classifier, images: Images) -> Tensor:
    """Find the most probable classes of each image, in descending order, `batch × classes`."""
    logits = classifier(images)
    return logits.topk(min(TOP_CLASSES, logits.shape[1]), dim=1).indices


def _summarise_maps(maps: Maps) -> Features:
    """Compute mean, maximum, standard deviation and upper decile of each map."""
    flat = maps.flatten(1)
    upper: Scores = flat.quantile(0.9, dim=1)
    return torch.stack([flat.mean(1), flat.amax(1), flat.std(1), upper], 1)


def _coarsen(maps: Maps, side: int) -> Float[Tensor, "batch rows columns"]:
    """Average maps over a grid of `side × side` cells."""
    return F.adaptive_avg_pool2d(maps[:, None], side)[:, 0]


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
        raise ConfigError(
            f"attacks: {other} is for apercu stress; expected attacks on the class, such as pgd"
        )
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
        names = split_names(text, "looks", (*TRAINED, DEEP, *METHODS, OWN_FORM))
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
    valid_names = (*TRAINED, DEEP, *METHODS, OWN_FORM)
    is_own = kind not in (MAP, DEEP) and split_own(name) is not None
    if kind not in METHODS and not is_own:
        raise ConfigError(
            f"looks: expected some of {', '.join(valid_names)}, got {name}"
            f"{suggest_nearest(name, valid_names)}"
        )
    (method,) = parse_methods(name).values()
    if isinstance(method, TrueBox):
        raise ConfigError(
            f"looks: {name} is given the true box and does not look at the classifier; "
            "choose another method"
        )
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
