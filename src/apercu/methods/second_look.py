"""A wrapper: a second look at the map of another explainer."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isnan
from typing import final

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.explainers.mask.objectives.crop_search import (
    CROP_LEVEL,
    CROPS_AT_ONCE,
    EXTENT_LEVEL,
    QUERIES,
    search_crops,
)
from apercu.maps import min_max_scale
from apercu.methods.base import MapExplainer, Requirement, Wrapper
from apercu.types import Images, Maps, Targets

STRETCHED_EXTENT_LEVEL = 0.25
"""Level of a map on a scale of its own, stretched to [0, 1], whose region holds all crops."""


@final
@dataclass(frozen=True)
class SecondLook(Wrapper):
    """The map of another explainer, with the smallest sufficient crop that a search found in it.

    The first crops are those of five levels of the map. Then the best crop so far is moved and
    resized at random, five times before the next choice. Crops stay inside the region of the map
    at level 0.5 (0.25 on a scale of its own). The regions of this level and of all lower ones stay
    as they are, and so do extent and box of the object. The search minimises the saliency metric
    log max(area, 0.05) − log p(class), so a table with this metric shows what the search gains, and
    the start has to be compared with other starts.

    Attributes:
        method: the explainer whose maps are the start.
        queries: the number of crops that the classifier is asked about, per image.
        above: the score of the crop at level 0.6 above which an image gets the second look.
        seed: the seed of the crops, which are the same for all images.

    Raises:
        ConfigError: a number is out of range.
    """

    method: MapExplainer
    queries: int = QUERIES
    above: float = -inf
    seed: int = 0

    def __post_init__(self) -> None:
        if self.queries < CROPS_AT_ONCE:
            raise ConfigError(
                f"second_look: expected queries of at least {CROPS_AT_ONCE}, got {self.queries}"
            )
        if isnan(self.above):
            raise ConfigError(f"second_look: expected a number for above, got {self.above}")

    @property
    def needs(self) -> tuple[Requirement, ...]:
        """What the explainer inside needs, and many forward passes."""
        return tuple(dict.fromkeys((*self.method.needs, "queries")))

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        maps, lowest = self.method(classifier, images, targets).to(images), EXTENT_LEVEL
        if self.map_scale == "map":
            maps, lowest = min_max_scale(maps), STRETCHED_EXTENT_LEVEL
        found = search_crops(
            classifier,
            images.detach(),
            targets,
            maps,
            lowest=lowest,
            queries=self.queries,
            above=self.above,
            seed=self.seed,
        ).masks
        return _lift_crops(found) if self.map_scale == "map" else found


def _lift_crops(maps: Maps) -> Maps:
    """Return the maps with their crops raised up to 1, so that stretching them changes nothing."""
    missing = 1 - maps.amax((1, 2), keepdim=True)
    return torch.where(maps > CROP_LEVEL, maps + missing, maps)
