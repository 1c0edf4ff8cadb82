"""How long and how fast a training goes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


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


class TrainingConfig(BaseModel):
    """What every training can be told.

    Attributes:
        schedule: how long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schedule: Schedule = Schedule()
