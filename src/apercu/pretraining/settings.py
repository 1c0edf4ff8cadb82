"""The settings of a pretraining, and the presets."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from apercu.errors import ConfigError, suggest_nearest
from apercu.pretraining.pretexts import (
    Adios,
    Clusters,
    Colours,
    Contrastive,
    Magnitudes,
    Regions,
    Transformation,
)
from apercu.training.config import ConfigPresets, Schedule, TrainingConfig

AnyPretext = Annotated[
    Magnitudes | Transformation | Adios | Contrastive | Colours | Clusters | Regions,
    Field(discriminator="form"),
]


class PretrainSchedule(Schedule):
    """The length and the pace of the pretraining of a backbone."""

    steps: int = Field(2000, ge=1)
    batch: int = Field(64, ge=2)
    rate: float = Field(2e-3, gt=0)
    decay: float = Field(0.02, ge=0)
    averaging: float = Field(0.99, ge=0, lt=1)
    save_every: int = Field(200, ge=1)


class PretrainSettings(TrainingConfig):
    """Everything that distinguishes one pretraining from another.

    Attributes:
        pretext: the pretext, which computes the loss.
        schedule: the length and the pace.
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
        "colours": PretrainSettings(pretext=Colours()),
        "clusters": PretrainSettings(pretext=Clusters()),
        "regions": PretrainSettings(pretext=Regions()),
    },
)


def find_pretext_presets(name: str) -> ConfigPresets[PretrainSettings]:
    """Find the settings of one pretext by its name.

    Raises:
        ConfigError: there is no such pretext.
    """
    if name not in PRETEXTS.presets:
        raise ConfigError(
            f"pretext: expected one of {', '.join(PRETEXTS.presets)}, got {name}"
            f"{suggest_nearest(name, PRETEXTS.presets)}"
        )
    return ConfigPresets(PretrainSettings, {name: PRETEXTS.presets[name]})
