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
from apercu.explainers.base import TrainedExplainer
from apercu.methods import MapExplainer
from apercu.methods.layers import compute_deep_features
from apercu.robustness.detection.detectors.base import Features
from apercu.robustness.filters import Filter, Jpeg
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
