"""Training without a defence, with which the defences are compared."""

from __future__ import annotations

from typing import Literal, final

from apercu.robustness.defences.base import Defence, DefenceBatch
from apercu.types import Images, Scores


@final
class Standard(Defence):
    """Trains with clean images alone."""

    form: Literal["standard"] = "standard"

    def compute_losses(self, batch: DefenceBatch) -> dict[str, Scores]:
        return {"honest": batch.compute_loss(batch.training_logits(batch.images))}

    def make_hard_images(self, batch: DefenceBatch) -> Images:
        return batch.images
