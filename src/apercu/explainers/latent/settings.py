"""What a training of the latent explainer can be told, and the presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apercu.explainers.latent.network import LatentShape
from apercu.explainers.latent.paths import Lagrangian
from apercu.explainers.settings import ExplainerSettings
from apercu.training.config import ConfigPresets, Schedule


class LatentSchedule(Schedule):
    """How long and how fast a latent explainer is trained."""

    steps: int = Field(1500, ge=1)
    batch: int = Field(16, ge=2)
    rate: float = Field(2e-3, gt=0)


class LatentSettings(ExplainerSettings):
    """Everything that distinguishes one latent explainer from another.

    Attributes:
        explainer: the kind.
        shape: of the autoencoder and the reader.
        noise: standard deviation of what a code leaves out of a picture; the lower, the more a
            code holds, and the less likely the pictures between two of them.
        path: how paths are found.
    """

    explainer: Literal["latent"] = "latent"
    shape: LatentShape = LatentShape()
    noise: float = Field(0.06, gt=0)
    path: Lagrangian = Lagrangian()
    schedule: LatentSchedule = LatentSchedule()


LATENT_PRESETS = ConfigPresets(LatentSettings, {"light": LatentSettings()})
