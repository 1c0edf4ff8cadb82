"""The settings of a training: its schedule, and how settings are read from files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from apercu.errors import ConfigError, shorten, suggest_nearest

MAX_YAML = 100_000
"""Letters and values that a file of settings may have."""
CONFIG = "config.json"
"""File of a run folder that holds the settings."""


S = TypeVar("S", bound=BaseModel)
C = TypeVar("C", bound="TrainingConfig")


class Schedule(BaseModel):
    """How long and how fast a training goes.

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
    """The settings that every training has.

    Attributes:
        schedule: how long and how fast it goes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    schedule: Schedule = Schedule()

    def with_schedule(
        self: C, *, steps: int | None = None, batch: int | None = None, begun: int | None = None
    ) -> C:
        """Return the settings with another number of steps or images; None leaves it as it is.

        Fewer steps shorten the other phases of the training in proportion; more steps leave them.

        Args:
            steps: optimisation steps.
            batch: images per step and device.
            begun: steps with which the training was begun that is continued; its other phases stay
                as they were.

        Returns:
            The settings.

        Raises:
            ConfigError: the training needs more steps or images.
        """
        changes = {"steps": steps, "batch": batch}
        changed = {name: value for name, value in changes.items() if value is not None}
        try:
            schedule = type(self.schedule).model_validate(self.schedule.model_dump() | changed)
        except ValidationError as error:
            raise ConfigError("; ".join(_list_mistakes(error, ()))) from None
        settings = self.model_copy(update={"schedule": schedule})
        first = schedule.steps if begun is None else min(begun, schedule.steps)
        return settings.shorten_phases(min(1.0, first / self.schedule.steps))

    def shorten_phases(self: C, fraction: float) -> C:
        """Return the settings with a fraction of the length of all phases but the schedule's own.

        Args:
            fraction: fraction in [0, 1].

        Returns:
            The settings.
        """
        return self


@dataclass(frozen=True)
class ConfigPresets(Generic[S]):
    """The settings of one kind of training, and the presets that they start from.

    Args:
        model: the class of the settings.
        presets: complete settings by name; files that name none start from the first one.
        default: the preset that is taken where no settings are given; the first one when empty.
    """

    model: type[S]
    presets: Mapping[str, S]
    default: str = ""

    def read(self, path: str | Path | None) -> S:
        """Read settings from a YAML file: a preset's name under `preset`, and what differs from it.

        Args:
            path: the file, the name of a preset, or None for the default.

        Returns:
            The settings.

        Raises:
            ConfigError: there is no such file or preset, or it holds mistakes; all are listed.
        """
        if path is None or str(path) in self.presets:
            return self.presets[str(path or self.default or self._first)]
        try:
            content = _parse_yaml(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{path}: cannot read settings ({error}); presets are {', '.join(self.presets)}"
                f"{suggest_nearest(str(path), self.presets)}"
            ) from None
        except (yaml.YAMLError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(f"{path}: expected settings in YAML ({reason})") from None
        if not isinstance(content, dict):
            raise ConfigError(f"{path}: expected settings by name, got {type(content).__name__}")
        return self.parse(content, str(path))

    def parse(self, content: dict[str, Any], where: str = "settings") -> S:
        """Build settings from a dictionary, merged into the preset that it names.

        Args:
            content: settings by name, as YAML gives them.
            where: where they are from, for errors.

        Returns:
            The settings.

        Raises:
            ConfigError: it names no known preset, or holds mistakes; all are listed.
        """
        content = dict(content)
        preset = content.pop("preset", self._first)
        if not isinstance(preset, str) or preset not in self.presets:
            raise ConfigError(
                f"{where}: no preset {preset!r}, expected one of {', '.join(self.presets)}"
                f"{suggest_nearest(str(preset), self.presets)}"
            )
        base = self._start(self.presets[preset], content)
        try:
            return self.model.model_validate(_merge(base, content))
        except ValidationError as error:
            mistakes = "; ".join(_list_mistakes(error, list(_list_paths(self.model))))
            raise ConfigError(f"{where}: {mistakes}") from None

    def _start(self, preset: S, content: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of a preset that are chosen there or named now.

        The others, and what is not named of an open part, stay open to a later choice.
        """
        chosen, start = preset.model_fields_set, preset.model_dump()
        start = {key: value for key, value in start.items() if key in chosen or key in content}
        for part in getattr(self.model, "open_parts", ()):
            if part in content and part not in chosen:
                start[part] = {}
        return start

    @property
    def _first(self) -> str:
        return next(iter(self.presets))


def _parse_yaml(text: str) -> Any:
    """Parse YAML of settings.

    Raises:
        yaml.YAMLError: it is no YAML.
        ValueError: it is longer than any settings, nested too deeply, holds numbers that are not
            finite, or becomes very large through its anchors.
    """
    if len(text) > MAX_YAML:
        raise ValueError(f"expected up to {MAX_YAML} letters")
    try:
        content = yaml.safe_load(text)
        if _count_values(content, MAX_YAML) > MAX_YAML:
            raise ValueError(f"expected up to {MAX_YAML} values")
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except (LookupError, AttributeError, TypeError, OverflowError):  # such as !!int ''
        raise ValueError("a tag does not fit its value") from None
    return content


def _count_values(content: Any, limit: int) -> int:
    """Return how many values a tree holds; one that occurs twice counts twice, up to a limit.

    Raises:
        ValueError: a number is not finite, or a key is no text.
    """
    if isinstance(content, float) and not isfinite(content):
        raise ValueError(f"expected finite numbers, got {content}")
    parts: Iterable[Any] = ()
    if isinstance(content, dict):
        parts = content.values()
        if other := [key for key in content if not isinstance(key, str)]:
            raise ValueError(f"expected names before the colons, got {shorten(other[0])}")
    elif isinstance(content, list | tuple | set):
        parts = content
    count = 1
    for part in parts:
        count += _count_values(part, limit - count)
        if count > limit:
            break
    return count


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dictionaries; one of another `form` replaces the old one instead."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        merged[key] = value
        if isinstance(value, dict) and isinstance(old, dict):
            same_form = value.get("form", old.get("form")) == old.get("form")
            merged[key] = _merge(old, value) if same_form else value
    return merged


def _list_mistakes(error: ValidationError, paths: Sequence[str]) -> list[str]:
    """Return one line for each mistake; a misspelt or misplaced key gets what was meant.

    Args:
        error: the mistakes.
        paths: names of all settings, with the parts that they are in, such as `schedule.steps`.

    Returns:
        The lines.
    """
    lines = []
    names = {path.rpartition(".")[2] for path in paths}
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"])
        if not where:
            lines.append(mistake["msg"].removeprefix("Value error, "))
        elif mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            key = str(mistake["loc"][-1])
            parts = {path for path in paths if path.endswith(f".{key}")} if key == where else ()
            meant = f"; did you mean {' or '.join(sorted(parts))}?" if parts else ""
            lines.append(f"{where} is no setting{meant or suggest_nearest(key, names)}")
        else:
            lines.append(f"{where}: {mistake['msg'].lower()}, got {shorten(mistake['input'])}")
    return lines


def _list_paths(kind: Any, inside: str = "") -> Iterator[str]:
    """Yield the names of all settings with the parts that they are in."""
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__pydantic_fields__", None)
    if isinstance(kind, type) and fields is not None:
        for name, field in fields.items():
            yield inside + name
            yield from _list_paths(field.annotation, f"{inside}{name}.")
        return
    if isinstance(kind, type) and hasattr(kind, "__dataclass_fields__"):
        yield from (inside + name for name in kind.__dataclass_fields__)
        return
    for part in get_args(kind):
        yield from _list_paths(part, inside)
