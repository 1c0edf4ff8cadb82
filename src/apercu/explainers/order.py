"""What a training was begun with, so that it can only be gone on with in the same way."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from apercu.errors import RunError
from apercu.explainers.run_folder import CONFIG, WEIGHTS
from apercu.explainers.settings import GatedSettings
from apercu.io import write_file
from apercu.training.config import ConfigPresets, TrainingConfig

ORDER = "order.json"
OTHER_TRAININGS = {"defence": "stress train", "pretext": "pretrain"}
"""Keys that the settings of other trainings have, and those of no explainer; their verbs."""

S = TypeVar("S", bound=TrainingConfig)


class TrainingRecord(BaseModel):
    """What the settings do not say, but the result depends on.

    Attributes:
        classifier: fingerprint of the explained classifier.
        images: name of the training images.
        count: how many there are.
        seed: of every draw.
        devices: how many share the work.
        precision: of the numbers.
        wanted: digest of what is to be learnt of each image, where that is not the classifier.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    classifier: str
    images: str
    count: int
    seed: int
    devices: int = 1
    precision: str = "32-true"
    wanted: str = ""

    def begin(self, run: Path, *, resume: bool) -> None:
        """Notes down what is begun in a run folder, or checks that it is the same.

        Raises:
            RunError: a training was begun here that is finished, is not to be gone on with, or
                was another.
            OutputError: the folder cannot be written.
        """
        path = run / ORDER
        if os.environ.get("LOCAL_RANK", "0") != "0":
            return  # Lightning started this process beside the one that has begun the run
        if not has_training(run):
            write_file(path, self.model_dump_json(indent=1))
            return
        if (run / WEIGHTS).is_file():
            raise RunError(f"{run}: holds a finished training; choose another --out")
        if not resume:
            raise RunError(
                f"{run}: a training was begun here; go on with --resume, or choose another --out"
            )
        try:
            before = TrainingRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise RunError(f"{path}: cannot be read; choose another --out") from error
        for name, value in self:
            if value != (then := getattr(before, name)):
                raise RunError(
                    f"{run}: the training begun here had {name} {then}, now {name} {value}; "
                    "use the same, or choose another --out"
                )


def has_training(run: Path) -> bool:
    """Whether a run folder holds a training, finished or not."""
    return any((run / name).is_file() for name in (ORDER, CONFIG))


def find_settings(run: Path, config: str | Path | None, presets: ConfigPresets[S]) -> S:
    """The settings that were asked for; without any, those of the training begun in the folder.

    Raises:
        ConfigError: there are no such settings, or they hold mistakes.
        RunError: the begun training's settings are damaged.
    """
    stored = run / CONFIG
    _check_kind(stored, presets)
    if config is not None or not stored.is_file():
        return presets.read(config)
    try:
        return presets.model.model_validate_json(stored.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise RunError(f"{stored}: the run folder is damaged; choose another --out") from error


def _check_kind(stored: Path, presets: ConfigPresets[S]) -> None:
    """Raises RunError for a folder that holds a training of another kind."""
    try:
        content = json.loads(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing begun, or damaged, which is told where it is read
    fields = presets.model.model_fields
    wanted = fields["explainer"].default if "explainer" in fields else _find_other_kind(fields)
    held = wanted
    if isinstance(content, dict):
        held = _find_other_kind(content) or content.get("explainer", "mask")
    if held != wanted:
        verb = OTHER_TRAININGS.get(str(held), f"train {held}")
        raise RunError(
            f"{stored.parent}: holds a {held} training; use `apercu {verb}`, or choose "
            "another --out"
        )


def _find_other_kind(keys: Iterable[str]) -> str | None:
    """Which of the other trainings has these settings."""
    return next((kind for kind in OTHER_TRAININGS if kind in keys), None)


def override_settings(
    settings: S,
    *,
    steps: int | None = None,
    batch: int | None = None,
    encoder: str | None = None,
) -> S:
    """The settings with what a command line overrides; None leaves it as it is.

    The encoder `small` starts from nothing, so it is trained along.
    """
    asked = {"steps": steps, "batch": batch}
    schedule = {name: value for name, value in asked.items() if value is not None}
    update: dict[str, object] = {"schedule": settings.schedule.model_copy(update=schedule)}
    if encoder is not None and isinstance(settings, GatedSettings):
        scratch = encoder == "small" or (encoder.startswith("timm/") and not settings.frozen)
        update |= {"encoder": encoder, "frozen": not scratch}
    return settings.model_copy(update=update)
