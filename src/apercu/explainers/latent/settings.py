"""The settings of the latent explainer, and their presets."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from apercu.explainers.latent.network import Lagrangian, LatentShape
from apercu.explainers.settings import ExplainerSettings
from apercu.training.config import ConfigPresets, Schedule


class LatentSchedule(Schedule):
    """How long and how fast a latent explainer is trained."""

    steps: int = Field(1500, ge=1)
    batch: int = Field(16, ge=2)
    rate: float = Field(2e-3, gt=0)


class LatentSettings(ExplainerSettings):
    """The settings of a latent explainer.

    Attributes:
        explainer: the kind of the explainer.
        shape: size of the autoencoder and of its logit heads.
        noise: standard deviation of what a code leaves out of a picture; the lower, the more a
            code holds, and the less realistic are pictures between two codes.
        path: how paths are found.
    """

    explainer: Literal["latent"] = "latent"
    shape: LatentShape = LatentShape()
    noise: float = Field(0.06, gt=0)
    path: Lagrangian = Lagrangian()
    schedule: LatentSchedule = LatentSchedule()


LATENT_PRESETS = ConfigPresets(LatentSettings, {"light": LatentSettings()})
