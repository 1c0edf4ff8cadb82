"""A wrapper: the map of another explainer, blurred."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import final

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.methods.base import MapExplainer, Wrapper
from apercu.removal import Blur
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class Smoothed(Wrapper):
    """A Gaussian blur of the map.

    The border is reflected, so that a map neither fades nor loses evidence there.

    Attributes:
        method: the explainer whose maps are blurred.
        sigma: the standard deviation, as a fraction of the image's shorter side.

    Raises:
        ConfigError: sigma is not above 0.
    """

    method: MapExplainer
    sigma: float = 0.03

    def __post_init__(self) -> None:
        if not 0 < self.sigma < inf:
            raise ConfigError(f"smoothed: expected finite sigma above 0, got {self.sigma}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        maps = self.method(classifier, images, targets)
        return Blur(self.sigma).make_replacement(maps[:, None])[:, 0]
