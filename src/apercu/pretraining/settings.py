"""What a pretraining can be told, and the presets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from apercu.pretraining.pretexts import Adios, Contrastive, Magnitudes, Transformation
from apercu.training.config import ConfigPresets, Schedule, TrainingConfig

AnyPretext = Annotated[
    Magnitudes | Transformation | Adios | Contrastive, Field(discriminator="form")
]


class PretrainSchedule(Schedule):
    """How long and how fast a backbone is pretrained."""

    steps: int = Field(2000, ge=1)
    batch: int = Field(64, ge=2)
    rate: float = Field(2e-3, gt=0)
    decay: float = Field(0.02, ge=0)
    averaging: float = Field(0.99, ge=0, lt=1)
    save_every: int = Field(200, ge=1)


class PretrainSettings(TrainingConfig):
    """Everything that distinguishes one pretraining from another.

    Attributes:
        pretext: what is learnt.
        schedule: how long.
    """

    pretext: AnyPretext = Magnitudes()
    schedule: PretrainSchedule = PretrainSchedule()


PRETEXTS = ConfigPresets(
    PretrainSettings,
    {
        "magnitudes": PretrainSettings(),
        "transformation": PretrainSettings(pretext=Transformation()),
        "adios": PretrainSettings(pretext=Adios()),
        "contrastive": PretrainSettings(pretext=Contrastive()),
    },
)
