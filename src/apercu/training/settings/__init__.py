"""What the trainings can be told: typed, read from YAML, stored with the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apercu.explainers.counterpart.settings import PRESETS as COUNTERPART_PRESETS
from apercu.explainers.counterpart.settings import CounterpartSettings
from apercu.explainers.latent.settings import PRESETS as LATENT_PRESETS
from apercu.explainers.latent.settings import LatentSettings
from apercu.explainers.mask.settings import PRESETS, MaskSchedule, MaskSettings
from apercu.training.settings.gated import GatedSettings
from apercu.training.settings.reading import ConfigPresets
from apercu.training.settings.schedule import ExplainerSettings, Schedule, TrainingConfig

MASK = ConfigPresets(MaskSettings, PRESETS)
COUNTERPART = ConfigPresets(CounterpartSettings, COUNTERPART_PRESETS)
LATENT = ConfigPresets(LatentSettings, LATENT_PRESETS)


def read_settings(path: str | Path | None) -> MaskSettings:
    """Settings of a mask explainer from a YAML file, or of a preset; see `Family.read`."""
    return MASK.read(path)


def parse_settings(content: dict[str, Any], where: str = "settings") -> MaskSettings:
    """Settings of a mask explainer from a dictionary; see `Family.parse`."""
    return MASK.parse(content, where)


__all__ = [
    "COUNTERPART",
    "LATENT",
    "MASK",
    "PRESETS",
    "CounterpartSettings",
    "ConfigPresets",
    "GatedSettings",
    "LatentSettings",
    "MaskSchedule",
    "MaskSettings",
    "Schedule",
    "TrainingConfig",
    "ExplainerSettings",
    "parse_settings",
    "read_settings",
]
