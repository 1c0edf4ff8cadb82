"""The true boxes as an explanation: what perfect localisation would score."""

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
    """A baseline that is told the truth, so it is no `Method`: it takes boxes, not targets.

    Boxes are pixels of the images; an image with fewer than others is filled up with empty ones.
    """

    needs: ClassVar[tuple[Requirement, ...]] = ("truth",)
    map_scale: ClassVar[str] = "truth"
    slow: ClassVar[bool] = False
    training_seconds: ClassVar[float] = 0.0

    @property
    def cache_key(self) -> str:
        return repr(self)

    def __call__(self, images: Images, truths: Float[Tensor, "batch truths 4"]) -> Maps:
        """1 inside any of an image's true boxes, else 0."""
        size = (images.shape[2], images.shape[3])
        filled = fill_boxes(truths.flatten(0, 1), size).view(*truths.shape[:2], *size)
        return filled.any(dim=1).to(images)
