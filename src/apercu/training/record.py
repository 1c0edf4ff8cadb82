"""What a training was begun with: the record in its run folder, and the settings that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

from apercu.errors import ConfigError, RunError
from apercu.io import parse_json
from apercu.run_record import RunRecord
from apercu.training.config import CONFIG, ConfigPresets, TrainingConfig

ORDER, WEIGHTS = "order.json", "weights.safetensors"
"""Files of a run folder: what the settings do not say, and the weights, which are written last."""
STEPS = "schedule.steps"
"""The setting that may grow when a training is continued."""

T = TypeVar("T", bound=TrainingConfig)

OTHER_TRAININGS = {
    "defence": "stress train",
    "pretext": "pretrain",
    "learning": "train classifier",
}
"""Keys that only the settings of other trainings than explainers have, and the verbs of those."""


class TrainingContext(BaseModel):
    """What the result of a training depends on besides its settings; the content of `order.json`.

    Attributes:
        classifier: fingerprint of the classifier.
        images: name of the training images.
        count: number of the images.
        seed: seed of every draw.
        devices: number of devices that share the work.
        precision: precision of the numbers.
        wanted: digest of the targets that come with the images, where there are any.
        student: fingerprint of the classifier that stands in for one without gradients, where it
            was given.
        begun: steps with which it was begun, which say how long its other phases are; 0 in the
            records of older versions.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    classifier: str
    images: str
    count: int
    seed: int
    devices: int = 1
    precision: str = "32-true"
    wanted: str = ""
    student: str = ""
    begun: int = 0


def make_record(
    run: Path, context: TrainingContext, settings: TrainingConfig, **parts: BaseModel
) -> RunRecord:
    """Return the record of a training, whose `begin` checks and locks the run folder.

    Args:
        run: the run folder.
        context: what the result depends on besides the settings.
        settings: the settings.
        parts: further parts by the stem of their JSON file.

    Returns:
        The record.
    """
    files: Mapping[str, BaseModel] = {
        ORDER: context,
        CONFIG: settings,
        **{f"{name}.json": part for name, part in parts.items()},
    }
    return RunRecord(
        run,
        files,
        "training",
        finished_by=WEIGHTS,
        on_request=True,
        ignored=frozenset({"begun", "spec", "schedule.save_every"}),  # the result is the same
        growing={STEPS: "--steps"},
    )


def find_begun_steps(run: Path) -> int | None:
    """Return the steps with which the training in a folder was begun; None where it holds none.

    Older versions did not keep them; then they are those of the settings.
    """
    try:
        content = parse_json((run / CONFIG).read_text(encoding="utf-8"))
        path = run / ORDER
        order = parse_json(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return int(order.get("begun") or content["schedule"]["steps"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, OverflowError):
        return None  # nothing was begun, or the file is damaged; `find_settings` reports this


def find_settings(
    run: Path, config: T | Mapping[str, Any] | str | Path | None, presets: ConfigPresets[T]
) -> T:
    """Return the settings that are given; else those of a training begun in the folder.

    Args:
        run: the run folder.
        config: settings, a dictionary of them, a YAML file, the name of a preset, or None.
        presets: settings class and presets of the kind of training.

    Returns:
        The settings.

    Raises:
        ConfigError: there are no such settings, or they hold mistakes.
        RunError: the folder holds a training of another kind, or its settings are damaged.
    """
    stored = run / CONFIG
    _check_kind(stored, presets)
    if isinstance(config, TrainingConfig):
        if not isinstance(config, presets.model):
            raise ConfigError(
                f"config: expected {presets.model.__name__}, got {type(config).__name__}"
            )
        return config
    if isinstance(config, Mapping):
        return presets.parse(dict(config))
    if config is not None or not stored.is_file():
        return presets.read(config)
    try:
        return presets.model.model_validate_json(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{stored}: the run folder is damaged; choose another --out") from error


def _check_kind(stored: Path, presets: ConfigPresets[Any]) -> None:
    """Raise RunError for a folder that holds a training of another kind."""
    try:
        content = parse_json(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return  # nothing was begun, or the file is damaged; `find_settings` reports this
    fields = presets.model.model_fields
    kind = fields["explainer"].default if "explainer" in fields else _find_other_kind(fields)
    stored_kind = kind
    if isinstance(content, dict):
        stored_kind = _find_other_kind(content) or content.get("explainer", "mask")
    if stored_kind != kind:
        verb = OTHER_TRAININGS.get(str(stored_kind), f"train {stored_kind}")
        raise RunError(
            f"{stored.parent}: holds a {stored_kind} training; use `apercu {verb}`, or choose "
            "another --out"
        )


def _find_other_kind(keys: Iterable[str]) -> str | None:
    """Return which of the other trainings has these settings."""
    return next((kind for kind in OTHER_TRAININGS if kind in keys), None)
