"""The whole image as its own explanation, a baseline: every method should score better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from apercu.classifiers import Classifier
from apercu.methods.base import MapScale, Method, Requirement
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class WholeBox(Method):
    """A map that is 1 everywhere."""

    needs: ClassVar[tuple[Requirement, ...]] = ()
    map_scale: ClassVar[MapScale] = "box"

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        return images.new_ones(len(images), *images.shape[2:])
