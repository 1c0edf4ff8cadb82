"""The planted set: generated pictures of which it is known where the evidence lies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool
from torch import Tensor

from apercu.errors import ConfigError, suggest_nearest
from apercu.images.planted.noise import RandomStream
from apercu.images.planted.patterns import PATTERNS
from apercu.images.planted.scene import SceneStyle, paint_scene
from apercu.images.source import ImageSource, Item, normalise_index
from apercu.maps import tight_boxes
from apercu.types import Boxes

SPLITS = ("train", "test")
MIN_SIZE, MAX_SIZE = 32, 2048
MAX_OBJECTS, MAX_CHANNELS = 4, 64


@dataclass(frozen=True, eq=False)
class PlantedObject:
    """One object of a picture: its class, the pixels where it can be seen, the box around them."""

    class_index: int
    region: Bool[Tensor, "height width"]
    box: Boxes


@dataclass(frozen=True)
class Planted(ImageSource):
    """Patterned objects in natural-looking scenes; each picture is computed when asked for.

    A class is a pattern, at any place, size, orientation and in any colours; shapes that mean
    nothing share the objects' outlines and colours. The same fields give the same bytes on every
    machine. An item's label is the class name of its first object; `truth` tells all of them.
    Classes are balanced in every run of `classes` pictures. Raises ConfigError for a field out of
    range.
    """

    classes: int = 6
    images: int = 2000
    seed: int = 0
    size: int = 64
    difficulty: float = 0.5
    """0, large and plain to see, to 1, small and faint among many distractors."""
    split: str = "train"
    objects: int = 1
    channels: int = 3

    def __post_init__(self) -> None:
        _check_range("classes", self.classes, 2, len(PATTERNS))
        _check_range("images", self.images, 1, 2**32)
        _check_range("seed", self.seed, 0, 2**63)
        _check_range("size", self.size, MIN_SIZE, MAX_SIZE)
        _check_range("difficulty", self.difficulty, 0, 1)
        _check_range("objects", self.objects, 1, min(MAX_OBJECTS, self.classes))
        _check_range("channels", self.channels, 1, MAX_CHANNELS)
        if self.split not in SPLITS:
            raise ConfigError(
                f"planted: expected split to be {' or '.join(SPLITS)}, got {self.split}"
            )

    @property
    def name(self) -> str:
        settings = ",".join(f"{key}={value}" for key, value in vars(self).items())
        return f"planted:{settings}"

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(PATTERNS)[: self.classes]

    @property
    def labelled(self) -> bool:
        return True

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(map(self._item_name, range(self.images)))

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, self.images)
        picture, objects = self._paint_picture(index)
        first = objects[0]
        label = self.class_names[first.class_index]
        return Item(self._item_name(index), picture, label, first.box, first.region)

    def _item_name(self, index: int) -> str:
        return f"{self.split}-{index:06d}"

    def true_objects(self, index: int) -> tuple[PlantedObject, ...]:
        """Every object of a picture, the one that gives the label first."""
        return self._paint_picture(normalise_index(index, self.images))[1]

    def _paint_picture(self, index: int) -> tuple[Tensor, tuple[PlantedObject, ...]]:
        draws = RandomStream(self.seed, SPLITS.index(self.split), index)
        classes = self._choose_classes(draws, index)
        style = SceneStyle.from_difficulty(self.difficulty)
        pixels, regions = paint_scene(draws, classes, (self.channels, self.size), style)
        visible = torch.from_numpy(regions)
        around = tight_boxes(visible)
        objects = tuple(
            PlantedObject(class_index, visible[i], around[i : i + 1])
            for i, class_index in enumerate(classes)
        )
        return torch.from_numpy(pixels).float() / 255, objects

    def _choose_classes(self, draws: RandomStream, index: int) -> list[int]:
        """The label's class, rotated from block to block, and other classes for the others."""
        first = (index + index // self.classes) % self.classes
        others = [number for number in range(self.classes) if number != first]
        chosen = [others.pop(draws.integer_below(len(others))) for _ in range(self.objects - 1)]
        return [first, *chosen]


def open_planted(settings: str, *, channels: int = 3) -> Planted:
    """Reads `key=value,key=value` as the fields of `Planted`; nothing gives the defaults.

    Raises ConfigError for an unknown key (suggesting the nearest), one given twice, and a value
    that is no number.
    """
    kinds = {field.name: type(field.default) for field in fields(Planted)}
    values: dict[str, int | float | str] = {"channels": channels}
    given: set[str] = set()
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, text = (part.strip() for part in setting.partition("="))
        if key not in kinds:
            hint = suggest_nearest(key, kinds) or f"; expected one of {', '.join(kinds)}"
            raise ConfigError(f"planted: no setting {key}{hint}")
        if key in given or not equals:
            raise ConfigError(f"planted: expected {key}=VALUE once, got {settings}")
        given.add(key)
        values[key] = _parse_number(key, text, kinds)
    return Planted(**values)  # type: ignore[arg-type]


def _parse_number(key: str, text: str, kinds: Mapping[str, type]) -> int | float | str:
    try:
        value: int | float | str = kinds[key](text)
    except ValueError as error:
        kind = "a whole number" if kinds[key] is int else "a number"
        raise ConfigError(f"planted: expected {kind} for {key}, got {text}") from error
    return value


def _check_range(key: str, value: int | float, low: int, high: int) -> None:
    if not low <= value <= high:
        raise ConfigError(f"planted: expected {key} from {low:g} to {high:g}, got {value:g}")
