"""CAM and its powers: the same order of pixels, other values (Gomez et al. 2022)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from apercu.classifiers import Classifier
from apercu.maps import min_max_scale, reduce_maps, resize_maps
from apercu.methods import Cam, Method
from apercu.types import Images, Maps, Targets


@dataclass(frozen=True)
class CamPower(Method):
    """CAM, stretched to [0, 1] and raised to a power before it is enlarged."""

    needs: ClassVar = ("layers",)
    power: float = 6.0
    cells: int = 7

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        """Return maps whose cells have the order of those of CAM, in 64 bits for high powers."""
        maps = Cam().compute_maps(classifier, images, targets)
        grid = min_max_scale(reduce_maps(maps, self.cells)).double() ** self.power
        return resize_maps(grid, (maps.shape[1], maps.shape[2]))
