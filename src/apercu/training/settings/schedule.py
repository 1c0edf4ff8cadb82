"""How long and how fast a training goes."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from apercu.training.embedding import Answers, Labels


class Schedule(BaseModel):
    """How long and how fast an explainer is trained.

    Attributes:
        steps: optimisation steps.
        batch: images per step and device.
        rate: highest learning rate of AdamW, reached after a short rise and then annealed.
        decay: weight decay.
        averaging: decay of the running average of the weights that is kept in the end.
        save_every: steps between two checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(1100, ge=1)
    batch: int = Field(12, ge=1)
    rate: float = Field(3e-3, gt=0)
    decay: float = Field(1e-4, ge=0)
    averaging: float = Field(0.99, ge=0, lt=1)
    save_every: int = Field(100, ge=1)


class TrainingSettings(BaseModel):
    """What every trained explainer can be told.

    Attributes:
        encoder: `own` (the classifier's backbone), `small` (from scratch), `timm/NAME` with
            timm's pretrained weights, or the SPEC of any classifier that shows its layers.
        frozen: whether the encoder stays as it is, or learns together with the class embedding.
        embedding: how the class embedding is learned.
        schedule: how long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    encoder: str = "own"
    frozen: bool = True
    embedding: Annotated[Answers | Labels, Field(discriminator="form")] = Answers()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _trains_what_is_random(self) -> TrainingSettings:
        if self.encoder == "small" and self.frozen:
            raise ValueError("a `small` encoder starts from nothing, so set frozen: false")
        if not self.frozen and self.encoder != "small" and not self.encoder.startswith("timm/"):
            raise ValueError(
                f"the encoder `{self.encoder}` is a classifier's own, so set frozen: true"
            )
        return self
