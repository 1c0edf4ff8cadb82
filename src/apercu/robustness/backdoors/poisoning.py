"""The test bed: a source of labelled images of which a stated fraction is poisoned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from apercu.errors import ConfigError, ImageError, ImagesError, RunError
from apercu.filters.checks import check_whole
from apercu.images import ImageSource, Item
from apercu.images.resizing import resize_picture
from apercu.io import parse_json, write_json
from apercu.option_strings import MAX_SEED, parse_named
from apercu.robustness.backdoors.badnets import BadNets
from apercu.robustness.backdoors.base import Trigger
from apercu.robustness.backdoors.dct import Dct
from apercu.types import Picture

TRIGGERS: Mapping[str, type[Trigger]] = {"badnets": BadNets, "dct": Dct}
"""Trigger classes by the names that people type."""
OWN_STREAM = 0x9E3779B9
"""Distance of these seeds from others: the same ones would draw the images held out."""
POISON_FILE = "poison.json"
"""File of a run folder that says how its images were poisoned."""


def parse_trigger(text: str) -> Trigger:
    """Parse the name of a trigger, such as `badnets:targets=3` or `dct:targets=0/3/7`.

    Raises:
        ConfigError: there is no such trigger or setting.
    """
    return parse_named(text, TRIGGERS, "trigger")


def upgrade_poison(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a file about poisoned images with today's keys.

    >>> upgrade_poison({"share": 0.1, "seed": 0})
    {'fraction': 0.1, 'seed': 0}
    """
    return {"fraction" if key == "share" else key: value for key, value in content.items()}


class PoisonRecord(BaseModel):
    """How images were poisoned, as a run folder keeps it in `poison.json`.

    Attributes:
        trigger: the trigger as people type it.
        fraction: fraction of the images that are poisoned.
        seed: seed that chose them.
        size: height and width to which pictures were resized before they were marked.
        images: name of the source.
        poisoned: names of the poisoned images.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    trigger: str
    fraction: float = Field(gt=0, lt=1)
    seed: int = Field(ge=0, le=MAX_SEED)
    size: tuple[int, int]
    images: str
    poisoned: tuple[str, ...]

    @model_validator(mode="before")
    @classmethod
    def _upgrade(cls, content: object) -> object:
        return upgrade_poison(content) if isinstance(content, Mapping) else content

    def save(self, folder: Path) -> Path:
        """Write `poison.json` into a folder; return its path."""
        return write_json(folder / POISON_FILE, self.model_dump(mode="json"))


def read_poison(path: Path) -> PoisonRecord:
    """Read how the images of a training were poisoned.

    Args:
        path: `poison.json`, or the run folder that holds it, or a file in that folder.

    Returns:
        The record.

    Raises:
        RunError: there is no such file, or it is damaged.
        ConfigError: its trigger is unknown.
    """
    if path.name != POISON_FILE:
        path = (path if path.is_dir() else path.parent) / POISON_FILE
    try:
        record = PoisonRecord.model_validate(parse_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise RunError(
            f"{path}: no such file; expected the run folder of a training with a trigger "
            "(apercu stress train --poison …)"
        ) from None
    except (OSError, ValueError, ValidationError) as error:
        raise RunError(f"{path}: damaged; expected what a training with a trigger wrote") from error
    parse_trigger(record.trigger)
    return record


@dataclass(frozen=True, eq=False)
class PoisonedImages(ImageSource):
    """The images of a labelled source, some of them marked and with the label of the attacker.

    The poisoned images are drawn from all, by the seed; several variants of a trigger take turns.
    Pictures are resized first, so that the mark is exact at the classifier's size.

    Args:
        source: clean images with labels.
        trigger: the trigger as people type it, such as `badnets:targets=3`.
        size: height and width of the classifier's images.
        fraction: fraction of the images that are poisoned.
        seed: seed of the draw.
    """

    source: ImageSource
    trigger: str
    size: tuple[int, int]
    fraction: float = 0.1
    seed: int = 0
    _trigger: Trigger = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_trigger", parse_trigger(self.trigger))
        check_whole("poison", 0, MAX_SEED, seed=self.seed)
        if not 0 < self.fraction < 1:
            raise ConfigError(
                f"poison: fraction: expected a fraction between 0 and 1, got {self.fraction:g}"
            )
        if not self.source.labelled:
            raise ImagesError(f"{self.source.name}: has no labels, and poisoning changes labels")
        if not self.variants:
            raise ImagesError(
                f"{self.source.name}: expected images enough to poison {self.fraction:g} of them, "
                f"got {len(self.source)}"
            )

    @cached_property
    def variants(self) -> dict[int, int]:
        """The variant of the trigger by the index of each poisoned image."""
        generator = torch.Generator().manual_seed((OWN_STREAM + self.seed) % 2**32)
        order = torch.randperm(len(self.source), generator=generator)
        chosen = sorted(order[: round(self.fraction * len(self.source))].tolist())
        return {index: number % len(self._trigger.targets) for number, index in enumerate(chosen)}

    @property
    def name(self) -> str:
        return (
            f"{self.source.name}, {self.fraction:g} of it poisoned by {self.trigger}, {self.seed}"
        )

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return self.source.class_names

    @property
    def labelled(self) -> bool:
        return True

    @property
    def names(self) -> tuple[str, ...]:
        return self.source.names

    @property
    def record(self) -> PoisonRecord:
        """How the images were poisoned."""
        names = self.source.names
        poisoned = tuple(names[index] for index in self.variants)
        return PoisonRecord(
            trigger=self.trigger,
            fraction=self.fraction,
            seed=self.seed,
            size=self.size,
            images=self.source.name,
            poisoned=poisoned,
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Item:
        item = self.source[index]
        variant = self.variants.get(index % len(self))
        if variant is None:
            return item
        number = torch.tensor([variant])
        picture = self._trigger.stamp(self._resize(item)[None], number)[0]
        label = int(self._trigger.find_targets(number))
        return replace(item, picture=picture, label=label, boxes=None, region=None)

    def _resize(self, item: Item) -> Picture:
        low, high = item.picture.aminmax()
        if not (low >= 0 and high <= 1):
            raise ImageError(f"{item.name}: expected pixels in [0, 1] to mark, got raw counts")
        return resize_picture(item.picture, self.size)


def describe_poison(record: PoisonRecord) -> dict[str, Any]:
    """Return what results say of a test bed: trigger, targets, fraction and seed."""
    return {
        "trigger": record.trigger,
        "targets": list(parse_trigger(record.trigger).targets),
        "fraction": record.fraction,
        "seed": record.seed,
    }
