"""`Planted`: a source of generated pictures whose true evidence is known."""

from __future__ import annotations

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
    """One object of a picture.

    Attributes:
        class_index: index of its class.
        region: pixels where it is visible, `height × width`.
        box: tight box of the region, `1 × 4`.
    """

    class_index: int
    region: Bool[Tensor, "height width"]
    box: Boxes


@dataclass(frozen=True)
class Planted(ImageSource):
    """Patterned objects in natural-looking scenes; each picture is computed when it is read.

    A class is a pattern, in any location, size, rotation and colours. Distractors share the
    outlines and colours of the objects. The same fields give the same bytes on every machine. The
    label of an item is the class name of its first object; `true_objects` returns all objects.
    Every block of `classes` pictures has each class once.

    Attributes:
        classes: number of classes, from 2.
        images: number of pictures.
        seed: seed of all draws; another seed gives other pictures.
        size: height and width in pixels, 32 to 2048.
        difficulty: number from 0 (large objects with high contrast) to 1 (small faint ones among
            many distractors).
        split: `train` or `test`, which share no picture.
        objects: number of objects in each picture, all of different classes.
        channels: channels of every picture.

    Raises:
        ConfigError: a field is out of range.
    """

    classes: int = 6
    images: int = 2000
    seed: int = 0
    size: int = 64
    difficulty: float = 0.5
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
        """Return the name of one picture."""
        return f"{self.split}-{index:06d}"

    def true_objects(self, index: int) -> tuple[PlantedObject, ...]:
        """Return the objects of a picture; the first one gives the label."""
        return self._paint_picture(normalise_index(index, self.images))[1]

    def _paint_picture(self, index: int) -> tuple[Tensor, tuple[PlantedObject, ...]]:
        """Paint one picture; returns it, `channels × size × size`, and its objects."""
        random = RandomStream(self.seed, SPLITS.index(self.split), index)
        classes = self._choose_classes(random, index)
        style = SceneStyle.from_difficulty(self.difficulty)
        pixels, regions = paint_scene(random, classes, (self.channels, self.size), style)
        visible = torch.from_numpy(regions)
        boxes = tight_boxes(visible)[:, None]
        objects = tuple(map(PlantedObject, classes, visible, boxes))
        return torch.from_numpy(pixels).float() / 255, objects

    def _choose_classes(self, random: RandomStream, index: int) -> list[int]:
        """Choose the class of each object: the label, rotated from block to block, then others."""
        first = (index + index // self.classes) % self.classes
        others = [number for number in range(self.classes) if number != first]
        chosen = [others.pop(random.integer_below(len(others))) for _ in range(self.objects - 1)]
        return [first, *chosen]


def open_planted(settings: str, *, channels: int = 3) -> Planted:
    """Open the planted set by its settings.

    Args:
        settings: fields of `Planted` as `key=value,key=value`; empty for the defaults.
        channels: channels of every picture, unless the settings say otherwise.

    Returns:
        The planted set.

    Raises:
        ConfigError: a key is unknown or repeated, or a value is not a number or out of range.
    """
    types = {field.name: type(field.default) for field in fields(Planted)}
    values: dict[str, int | float | str] = {"channels": channels}
    keys: set[str] = set()
    for setting in filter(None, (part.strip() for part in settings.split(","))):
        key, equals, text = (part.strip() for part in setting.partition("="))
        if key not in types:
            hint = suggest_nearest(key, types) or f"; expected one of {', '.join(types)}"
            raise ConfigError(f"planted: no setting {key}{hint}")
        if key in keys or not equals:
            raise ConfigError(f"planted: expected {key}=VALUE once, got {settings}")
        keys.add(key)
        values[key] = _parse_number(key, text, types[key])
    return Planted(**values)  # type: ignore[arg-type]


def _parse_number(key: str, text: str, to: type) -> int | float | str:
    """Convert the value of a setting; raise ConfigError if it is not of the type."""
    try:
        value: int | float | str = to(text)
    except ValueError as error:
        expected = "a whole number" if to is int else "a number"
        raise ConfigError(f"planted: expected {expected} for {key}, got {text}") from error
    return value


def _check_range(key: str, value: int | float, low: int, high: int) -> None:
    """Raise ConfigError if a field is out of range."""
    if not low <= value <= high:
        raise ConfigError(f"planted: expected {key} from {low:g} to {high:g}, got {value:g}")
