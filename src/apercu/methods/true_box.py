"""The true boxes as an explanation: the score of a perfect localisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

from jaxtyping import Float
from torch import Tensor

from apercu.maps import fill_boxes
from apercu.methods.base import Requirement
from apercu.types import Images, Maps


@final
@dataclass(frozen=True)
class TrueBox:
    """A reference that knows the truth. It is no `Method`, because it takes boxes, not targets.

    Boxes are in pixels of the images. An image with fewer boxes than others is filled up with empty
    ones.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("truth",)
    map_scale: ClassVar[str] = "truth"
    slow: ClassVar[bool] = False
    training_seconds: ClassVar[float] = 0.0

    @property
    def cache_key(self) -> str:
        """A text that is equal only for explainers that give the same maps."""
        return repr(self)

    def __call__(self, images: Images, truths: Float[Tensor, "batch truths 4"]) -> Maps:
        """Return maps that are 1 inside any of an image's true boxes, else 0."""
        size = (images.shape[2], images.shape[3])
        filled = fill_boxes(truths.flatten(0, 1), size).view(*truths.shape[:2], *size)
        return filled.any(dim=1).to(images)
