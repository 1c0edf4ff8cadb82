"""No defence: what the others are compared with."""

from __future__ import annotations

from typing import Literal, final

from apercu.robustness.defences.base import Defence, DefenceBatch
from apercu.types import Images, Scores


@final
class Standard(Defence):
    """Honest images alone."""

    form: Literal["standard"] = "standard"

    def compute_losses(self, lesson: DefenceBatch) -> dict[str, Scores]:
        return {"honest": lesson.compute_loss(lesson.training_logits(lesson.images))}

    def make_hard_images(self, lesson: DefenceBatch) -> Images:
        return lesson.images
