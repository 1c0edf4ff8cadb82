"""The centre box, a baseline: photographers put the object in the middle."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import ClassVar, final

import torch

from apercu.classifiers import Classifier
from apercu.errors import ConfigError
from apercu.maps import fill_boxes
from apercu.methods.base import MapScale, Method, Requirement
from apercu.types import Images, Maps, Targets


@final
@dataclass(frozen=True)
class CentreBox(Method):
    """1 in a centred rectangle with the image's aspect, 0 elsewhere.

    The sides are rounded up to whole pixels: a box of less than half the area would miss objects
    that fill the image (IoU > 0.5 is required), and the baseline would look worse than it is.

    Attributes:
        area: the area of the rectangle, as a fraction of the image.

    Raises:
        ConfigError: the area is not in (0, 1].
    """

    needs: ClassVar[tuple[Requirement, ...]] = ()
    map_scale: ClassVar[MapScale] = "box"
    area: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.area <= 1:
            raise ConfigError(f"centre_box: expected area in (0, 1], got {self.area}")

    def compute_maps(self, classifier: Classifier, images: Images, targets: Targets) -> Maps:
        height, width = images.shape[2:]
        high, wide = (ceil(length * sqrt(self.area)) for length in (height, width))
        top, left = (height - high) // 2, (width - wide) // 2
        box = torch.tensor([[left, top, left + wide, top + high]], dtype=images.dtype)
        region = fill_boxes(box, (height, width)).to(images)
        return region.repeat(len(images), 1, 1)
