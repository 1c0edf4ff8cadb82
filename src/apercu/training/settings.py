"""What a training of the mask explainer can be told, and the presets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apercu.errors import ConfigError, nearest
from apercu.networks.decoder import DecoderShape
from apercu.training.embedding import Answers, Labels
from apercu.training.objectives import Dial, Printed, Released


class Schedule(BaseModel):
    """How long and how fast the mask phase trains.

    Attributes:
        steps: optimisation steps.
        batch: images per step and device.
        rate: highest learning rate of AdamW, reached after a short rise and then annealed.
        decay: weight decay.
        fakes: probability that a mask is asked for a class that is not there.
        averaging: decay of the running average of the weights that is kept in the end.
        side: largest side in pixels at which an open classifier judges masks; a black box, whose
            size is fixed, judges them at its own.
        save_every: steps between two checkpoints.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(1100, ge=1)
    batch: int = Field(12, ge=1)
    rate: float = Field(3e-3, gt=0)
    decay: float = Field(1e-4, ge=0)
    fakes: float = Field(0.3, ge=0, lt=1)
    averaging: float = Field(0.99, ge=0, lt=1)
    side: int = Field(160, ge=16)
    save_every: int = Field(100, ge=1)


class MaskSettings(BaseModel):
    """Everything that distinguishes one mask explainer from another.

    Attributes:
        encoder: `own` (the classifier's backbone), `small` (from scratch), `timm/NAME` with
            timm's pretrained weights, or the SPEC of any classifier that shows its layers.
        frozen: whether the encoder stays as it is, or learns together with the class embedding.
        decoder: the U-Net's way up.
        embedding: how the class embedding is learned.
        objective: what the masks are trained for.
        schedule: how long.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    encoder: str = "own"
    frozen: bool = True
    decoder: DecoderShape = DecoderShape()
    embedding: Annotated[Answers | Labels, Field(discriminator="form")] = Answers()
    objective: Annotated[Dial | Printed | Released, Field(discriminator="form")] = Dial()
    schedule: Schedule = Schedule()

    @model_validator(mode="after")
    def _trains_what_is_random(self) -> MaskSettings:
        if self.encoder == "small" and self.frozen:
            raise ValueError("a `small` encoder starts from nothing, so set frozen: false")
        return self


PRESETS: dict[str, MaskSettings] = {
    "light": MaskSettings(),
    "paper": MaskSettings(
        encoder="timm/resnet50",
        decoder=DecoderShape(768, 3, "bottleneck", "transposed", gate="deepest"),
        embedding=Labels(),
        objective=Printed(),
        schedule=Schedule(steps=4000, batch=64, rate=1e-3),
    ),
    "release": MaskSettings(
        encoder="timm/resnet50",
        decoder=DecoderShape(256, 1, "bottleneck", "pixel_shuffle", gate="deepest"),
        embedding=Labels(),
        objective=Released(),
        schedule=Schedule(steps=3000, batch=64, rate=1e-3),
    ),
    "small": MaskSettings(
        encoder="small",
        frozen=False,
        decoder=DecoderShape(64, resolution=2),
        embedding=Answers(steps=6000),
    ),
}


def read_settings(path: str | Path | None) -> MaskSettings:
    """Settings from a YAML file: a preset's name under `preset`, and what differs from it.

    Args:
        path: the file, the name of a preset, or None for `light`.

    Raises:
        ConfigError: no such file or preset, or it holds mistakes; all are listed.
    """
    if path is None or str(path) in PRESETS:
        return PRESETS[str(path or "light")]
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        known = f"; presets are {', '.join(PRESETS)}{nearest(str(path), PRESETS)}"
        raise ConfigError(f"{path}: cannot read settings ({error}){known}") from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected settings in YAML ({reason})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected settings by name, got {type(content).__name__}")
    return parse_settings(content, str(path))


def parse_settings(content: dict[str, Any], where: str = "settings") -> MaskSettings:
    """Settings from a dictionary, laid over the preset that it names.

    Raises:
        ConfigError: it names no known preset, or holds mistakes; all are listed.
    """
    content = dict(content)
    preset = content.pop("preset", "light")
    if not isinstance(preset, str) or preset not in PRESETS:
        raise ConfigError(
            f"{where}: no preset {preset!r}, expected one of {', '.join(PRESETS)}"
            f"{nearest(str(preset), PRESETS)}"
        )
    base = PRESETS[preset].model_dump()
    try:
        return MaskSettings.model_validate(_laid_over(base, content))
    except ValidationError as error:
        raise ConfigError(f"{where}: {'; '.join(_mistakes(error))}") from None


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries merged; one of another `form` replaces instead."""
    merged = dict(base)
    for key, value in changes.items():
        old = base.get(key)
        merged[key] = value
        if isinstance(value, dict) and isinstance(old, dict):
            same_form = value.get("form", old.get("form")) == old.get("form")
            merged[key] = _laid_over(old, value) if same_form else value
    return merged


def _mistakes(error: ValidationError) -> list[str]:
    found = []
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"])
        if not where:
            found.append(mistake["msg"].removeprefix("Value error, "))
        elif mistake["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
            found.append(f"{where} is no setting{nearest(str(mistake['loc'][-1]), _ALL_KEYS)}")
        else:
            found.append(f"{where}: {mistake['msg'].lower()}, got {mistake['input']!r}")
    return found


def _keys(model: type[BaseModel]) -> set[str]:
    return set(model.model_fields)


_ALL_KEYS: set[str] = {
    *_keys(MaskSettings),
    *_keys(Schedule),
    *_keys(Answers),
    *_keys(Labels),
    *_keys(Dial),
    *_keys(Printed),
    *_keys(Released),
    *DecoderShape.__dataclass_fields__,
}
