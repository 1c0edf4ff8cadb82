"""What a detector sees of an image: its map, how the map stands filtering, or deep features."""

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
from apercu.methods import Explainer
from apercu.methods.layers import compute_deep_features
from apercu.robustness.detection.detectors.base import Features
from apercu.robustness.filters import Filter, Jpeg
from apercu.robustness.measures import rank_correlation
from apercu.types import Images, Maps, Scores

TOP_CLASSES = 5
"""Classes, of those that the classifier is surest of, whose evidence is looked at."""
MAP_SIDE = 7
"""The map of a method is averaged over so many rows and columns."""


class FeatureExtractor(ABC):
    """Images → numbers; the class is the one that the classifier sees in them."""

    @abstractmethod
    def __call__(self, images: Images) -> Features:
        """One line per image, on the CPU."""


@final
@dataclass(frozen=True, eq=False)
class MapFeatures(FeatureExtractor):
    """The trained explainer's map of the class that is seen, and how it reads the first classes.

    Two passes of the explainer's encoder, one for the map and one for the reading.

    Args:
        classifier: says which classes it sees.
        explainer: trained for it.
    """

    classifier: Classifier
    explainer: TrainedExplainer[Any, Any]

    def __call__(self, images: Images) -> Features:
        first = find_top_classes(self.classifier, images)
        maps = self.explainer.attribute(images, first[:, 0])
        read = self.explainer.predict_logits(images).gather(1, first)
        return torch.cat([_summarise_maps(maps), read], 1).cpu()


@final
@dataclass(frozen=True, eq=False)
class StabilityFeatures(FeatureExtractor):
    """How the map, and what the explainer reads, change when the image is filtered a little.

    An attack aims at one exact image, an explanation of what is there does not. It costs twice
    what `MapSeen` does.

    Args:
        classifier: says which classes it sees, in the image before it is filtered.
        explainer: trained for it.
        filter: a mild one.
    """

    classifier: Classifier
    explainer: TrainedExplainer[Any, Any]
    filter: Filter = Jpeg(75)  # noqa: RUF009 a frozen value

    def __call__(self, images: Images) -> Features:
        first = find_top_classes(self.classifier, images)
        filtered = self.filter(images)
        maps = [self.explainer.attribute(shown, first[:, 0]) for shown in (images, filtered)]
        read = [
            self.explainer.predict_logits(shown).gather(1, first) for shown in (images, filtered)
        ]
        moved = torch.stack(
            [
                rank_correlation(*(_coarsen(one, 2 * MAP_SIDE) for one in maps)),
                (maps[0] - maps[1]).abs().mean((1, 2)),
            ],
            1,
        )
        return torch.cat(
            [moved, _summarise_maps(maps[0]) - _summarise_maps(maps[1]), read[0] - read[1]], 1
        ).cpu()


@final
@dataclass(frozen=True, eq=False)
class MethodMapFeatures(FeatureExtractor):
    """The map of a method that queries the classifier: its values from the highest to the lowest.

    Args:
        classifier: whom the method asks.
        method: such as CAM.
    """

    classifier: Classifier
    method: Explainer

    def __call__(self, images: Images) -> Features:
        seen = find_top_classes(self.classifier, images)[:, 0]
        maps = self.method(self.classifier, images, seen)
        return _coarsen(maps, MAP_SIDE).flatten(1).sort(1, descending=True).values.cpu()


@final
@dataclass(frozen=True, eq=False)
class DeepFeatures(FeatureExtractor):
    """The classifier's last features, averaged over places (Rippel et al. 2020).

    Args:
        classifier: one that shows its layers.
    """

    classifier: Classifier

    def __call__(self, images: Images) -> Features:
        return compute_deep_features(self.classifier, images).cpu()


@torch.no_grad()
def find_top_classes(classifier: Classifier, images: Images) -> Tensor:
    """Indices of the classes seen first, the surest first, `batch × classes`."""
    logits = classifier(images)
    return logits.topk(min(TOP_CLASSES, logits.shape[1]), dim=1).indices


def _summarise_maps(maps: Maps) -> Features:
    """Mean, highest, spread and upper tenth of each map."""
    flat = maps.flatten(1)
    upper: Scores = flat.quantile(0.9, dim=1)
    return torch.stack([flat.mean(1), flat.amax(1), flat.std(1), upper], 1)


def _coarsen(maps: Maps, side: int) -> Float[Tensor, "batch rows columns"]:
    return F.adaptive_avg_pool2d(maps[:, None], side)[:, 0]
