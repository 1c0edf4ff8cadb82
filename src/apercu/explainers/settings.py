"""What the explainers that look through an encoder and a class embedding can be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from apercu.explainers.class_embedding import BinaryEmbedding, RidgeEmbedding
from apercu.training.config import TrainingConfig


class ExplainerSettings(TrainingConfig):
    """What every trained explainer can be told.

    Attributes:
        explainer: the kind.
    """

    explainer: str


class GatedSettings(ExplainerSettings):
    """Where features come from, and how the classes are learned.

    Attributes:
        encoder: `own` (the classifier's backbone), `small` (from scratch), `timm/NAME` with
            timm's pretrained weights, or the SPEC of any classifier that shows its layers.
        frozen: whether the encoder stays as it is, or learns together with the class embedding.
        embedding: how the class embedding is learned.
    """

    encoder: str = "own"
    frozen: bool = True
    embedding: Annotated[RidgeEmbedding | BinaryEmbedding, Field(discriminator="form")] = (
        RidgeEmbedding()
    )

    @model_validator(mode="after")
    def _check_encoder(self) -> GatedSettings:
        if self.encoder == "small" and self.frozen:
            raise ValueError("a `small` encoder starts from nothing, so set frozen: false")
        if not self.frozen and self.encoder != "small" and not self.encoder.startswith("timm/"):
            raise ValueError(
                f"the encoder `{self.encoder}` is a classifier's own, so set frozen: true"
            )
        return self
