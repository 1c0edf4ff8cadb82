"""The classifier card: one JSON file with all that a classifier needs besides its weights."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from math import isfinite, prod
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from apercu.classifiers.outputs import OutputKey, OutputName, describe_words, suggest_word
from apercu.classifiers.trust import is_trusting
from apercu.errors import (
    ClassifierError,
    ConfigError,
    MissingExtraError,
    UntrustedError,
    shorten,
    suggest_nearest,
)
from apercu.filters import NONE, find_folder, move_folder, parse_filter
from apercu.images.stretch import Stretch
from apercu.io import expand_home, is_folder, is_inside, parse_json

M = TypeVar("M", bound=BaseModel)

CARD_FILE = "card.json"
"""Name of the card in the folder of a saved classifier."""
FILE_ENDINGS = (".pt2", ".onnx")
"""Endings of the sources that are files."""
FOLDER_PREFIXES = ("hf/", "clip/")
"""Beginnings of the sources that may name a folder."""
READY_PREFIX = "ready:"
"""Beginning of the sources whose weights are a Python package."""

RAW_COUNTS = "filters take pixels in [0, 1], and this classifier raw counts; set input.stretch"
"""Why a classifier of raw counts has no filter."""
MAX_TEMPERATURE = 1e6
"""Largest temperature; the smallest is its inverse. Beyond them float32 has no probabilities."""
MAX_SIDE = 8192
"""Pixels of the longest side of an input."""
MAX_NUMBERS = 2**27
"""Numbers of one image: channels × height × width."""


class InputSpec(BaseModel):
    """What a classifier expects of its images, and how their pixels are normalised.

    Without `mean`, `std` and `normalise` the network receives pixels in [0, 1]. Raw counts need a
    `stretch`, or the rule `l2_per_channel`; with both, the rule receives counts again.

    Attributes:
        channels: number of channels; other images are converted between grey and colour.
        size: height and width in pixels; one number for both.
        resize: pixels of the short side before a centre crop; None squashes the whole image.
        mean: what is subtracted from pixels in [0, 1], one number per channel or one for all.
        std: what the result is divided by, one number per channel or one for all.
        normalise: a rule in the place of mean and std.
        bands: names of the bands that become the channels, in this order.
        stretch: how raw counts become pixels in [0, 1].
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    channels: int = Field(default=3, ge=1)
    size: tuple[int, int]
    resize: int | None = Field(default=None, ge=1)
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    normalise: Literal["l2_per_channel"] | None = None
    bands: tuple[str, ...] | None = None
    stretch: Stretch | None = None

    @field_validator("size", mode="before")
    @classmethod
    def _read_size(cls, size: object) -> object:
        return (size, size) if isinstance(size, int) and not isinstance(size, bool) else size

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _read_channel_values(cls, values: object, info: Any) -> object:
        if isinstance(values, int | float) and not isinstance(values, bool):
            return (values,) * info.data.get("channels", 1)
        return values

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: tuple[int, int], info: Any) -> tuple[int, int]:
        if min(size) < 1:
            raise ValueError("both sides must be at least 1 pixel")
        if max(size) > MAX_SIDE or prod(size) * info.data.get("channels", 1) > MAX_NUMBERS:
            raise ValueError(
                f"expected sides up to {MAX_SIDE} pixels, {MAX_NUMBERS} numbers in all"
            )
        return size

    @field_validator("resize")
    @classmethod
    def _check_resize(cls, resize: int | None, info: Any) -> int | None:
        if resize is not None and resize < max(info.data.get("size", (0, 0))):
            raise ValueError("must be at least as large as size")
        if resize is not None and resize > MAX_SIDE:
            raise ValueError(f"expected up to {MAX_SIDE} pixels")
        return resize

    @field_validator("mean", "std", "bands")
    @classmethod
    def _check_channel_values(
        cls, values: tuple[Any, ...] | None, info: Any
    ) -> tuple[Any, ...] | None:
        channels = info.data.get("channels")
        if values is not None and channels is not None and len(values) != channels:
            raise ValueError(f"expected {channels} values, one per channel")
        if values is not None and info.field_name == "std" and min(values) <= 0:
            raise ValueError("every number must be above 0")
        return values

    @field_validator("normalise")
    @classmethod
    def _check_rule(cls, rule: str | None, info: Any) -> str | None:
        if rule and (info.data.get("mean") or info.data.get("std")):
            raise ValueError("give either a rule or mean and std")
        return rule

    @field_validator("stretch")
    @classmethod
    def _check_stretch(cls, stretch: Stretch | None, info: Any) -> Stretch | None:
        channels = info.data.get("channels")
        if stretch is not None and channels is not None and len(stretch.low) != channels:
            raise ValueError(f"expected {channels} bands, one per channel")
        if stretch is not None and stretch.sky and info.data.get("normalise"):
            raise ValueError("the rule needs counts, so set stretch.sky to false")
        return stretch

    @property
    def takes_raw_counts(self) -> bool:
        """Whether the classifier takes raw counts instead of pixels in [0, 1]."""
        return self.normalise is not None and self.stretch is None


class ClassifierCard(BaseModel):
    """The description of a classifier: its source, weights, input, output and classes.

    An `input` that is given is complete; without one, the source says what it is. Paths in a card
    file are relative to the file; `read_card` resolves them.

    Attributes:
        source: where the network comes from, as people type it.
        options: options of its builder.
        weights: file of its weights.
        input: what it expects of its images.
        output: what its numbers mean, see `apercu.classifiers.outputs`.
        output_name: which of several tensors that it returns holds the numbers: a key, a field or
            a position, with points between those of inner containers.
        value_range: a low and a high value of a regression; in the middle of the two, "lower" and
            "higher" have the same probability.
        temperature: number by which the logits are divided, so that probabilities are calibrated.
        filter: filter in front of the network, as people type it, such as `jpeg:quality=75`.
        guard: folder of the guard that says whether predictions may be believed; it is opened where
            it is used.
        classes: names of the classes, or the file that holds them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str
    options: dict[str, Any] = Field(default_factory=dict)
    weights: str | None = None
    input: InputSpec | None = None
    output: OutputName = "logits"
    output_name: OutputKey | None = None
    value_range: tuple[float, float] | None = None
    temperature: float | None = Field(default=None, strict=True, gt=0, allow_inf_nan=False)
    filter: str | None = None
    guard: str | None = None
    classes: str | tuple[str, ...] | None = None

    @field_validator("output", mode="before")
    @classmethod
    def _check_output(cls, output: object) -> object:
        if output in get_args(OutputName):
            return output
        if hint := suggest_word(output):
            raise ValueError(f"expected one of {', '.join(get_args(OutputName))}{hint}")
        raise ValueError(f"expected {describe_words()}")

    @field_validator("value_range")
    @classmethod
    def _check_range(
        cls, values: tuple[float, float] | None, info: Any
    ) -> tuple[float, float] | None:
        if values is not None and not (isfinite(sum(values)) and values[0] < values[1]):
            raise ValueError("expected a low and a high value, the low one first")
        output = info.data.get("output", "value")
        if values is not None and output != "value":
            raise ValueError(f"belongs to output: value, not to output: {output}")
        return values

    @field_validator("temperature")
    @classmethod
    def _check_temperature(cls, temperature: float | None, info: Any) -> float | None:
        output = info.data.get("output")
        if temperature is not None and output in ("value", "features"):
            raise ValueError(f"belongs to outputs that are classes, not to output: {output}")
        if temperature is not None and not 1 / MAX_TEMPERATURE <= temperature <= MAX_TEMPERATURE:
            limits = f"{1 / MAX_TEMPERATURE:g} to {MAX_TEMPERATURE:g}"
            raise ValueError(f"expected a number from {limits}, by which logits are divided")
        return temperature

    @field_validator("filter")
    @classmethod
    def _check_filter(cls, filter: str | None, info: Any) -> str | None:
        spec = info.data.get("input")
        if filter is None or filter == NONE:
            return None
        try:
            parse_filter(filter, "")
        except (ConfigError, MissingExtraError) as error:
            raise ValueError(str(error).removeprefix(": ")) from None
        if spec is not None and spec.takes_raw_counts:
            raise ValueError(RAW_COUNTS)
        return filter

    @field_validator("classes", mode="before")
    @classmethod
    def _check_classes(cls, classes: object) -> object:
        is_list = isinstance(classes, list | tuple) and all(isinstance(c, str) for c in classes)
        if classes is not None and not isinstance(classes, str) and not is_list:
            raise ValueError("expected the name of a file or a list of names")
        return classes


def read_card(path: str | Path) -> ClassifierCard:
    """Read and check a card, and make its paths relative to the working directory.

    Args:
        path: path of the card file.

    Returns:
        The card, with resolved paths.

    Raises:
        ClassifierError: the file is missing or is no JSON, or it has mistakes, which are all
            listed.
        UntrustedError: a path leads out of the folder of the card, which is not trusted.
    """
    path = Path(path)
    try:
        content = parse_json(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise ClassifierError(f"{path}: no such classifier card") from None
    except (OSError, ValueError) as error:
        raise ClassifierError(f"{path}: expected a classifier card in JSON ({error})") from None
    if not isinstance(content, dict):
        raise ClassifierError(f"{path}: expected a JSON object with the key source")
    card = validate(ClassifierCard, content, str(path))
    paths = dict(_resolve_paths(card, path.parent))
    for key, target in paths.items():
        location = find_folder(target) if key == "filter" else strip_source(target)
        if not (is_trusting() or is_inside(Path(location or ""), path.parent)):
            raise UntrustedError(
                f"{path}: {key} {shorten(getattr(card, key))} leads out of the folder of the card; "
                "copy the file there, or add --trust (in Python trust=True) if you trust the card"
            )
    if "guard" in paths and is_inside(path.parent, Path(paths["guard"])):
        raise ClassifierError(
            f"{path}: guard {shorten(card.guard)}: expected a folder inside that of the card, such "
            "as 'guard'; leave guard out of the card where there is none"
        )
    return card.model_copy(update=paths)


def write_card(card: ClassifierCard, path: str | Path) -> None:
    """Write a card as JSON, without the values that are at their defaults.

    An `output` that was said is kept, since a source may say another one.
    """
    content = card.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    if "output" in card.model_fields_set:
        content["output"] = card.output
    text = json.dumps(content, indent=1, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def _resolve_paths(card: ClassifierCard, folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys of a card that hold paths, with these paths resolved against its folder."""
    if card.source.endswith(FILE_ENDINGS):
        yield "source", str(folder / card.source)
    name = strip_source(card.source)
    needs_model = name != card.source and (
        card.weights is None or card.options.get("config") is None
    )
    if needs_model and (is_folder_name(name) or is_folder(folder / name) or is_folder(Path(name))):
        path = (folder / expand_home(name)).absolute()
        yield "source", move_source(card.source, str(path))
    if card.weights is not None:
        yield "weights", str(folder / card.weights)
    if isinstance(card.classes, str):
        yield "classes", str(folder / card.classes)
    if card.filter is not None and (named := find_folder(card.filter)) is not None:
        yield "filter", move_folder(card.filter, str(folder / named))
    if card.guard is not None:
        yield "guard", str(folder / card.guard)


def strip_source(source: str) -> str:
    """Return the folder, or the name, in `hf/FOLDER` and `clip/FOLDER?…`; other text as it is."""
    return _split_source(source)[1]


def move_source(source: str, path: str) -> str:
    """Return a source with another folder, or another file.

    >>> move_source("clip/model?texts=a,b", "/data/model")
    'clip//data/model?texts=a,b'
    """
    prefix, _, tail = _split_source(source)
    return f"{prefix}{path}{tail}"


def is_folder_name(name: str) -> bool:
    """Whether what stands after `hf/` or `clip/` can be no name of the hub, but a folder only."""
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or ".." in name.split("/")


def _split_source(source: str) -> tuple[str, str, str]:
    """Return the prefix of a source, its folder or name, and the texts after it."""
    prefix = next(filter(source.startswith, FOLDER_PREFIXES), "")
    name, mark, texts = source.removeprefix(prefix), "", ""
    if prefix == "clip/":
        name, mark, texts = name.partition("?")
    return prefix, name, mark + texts


def make_input(subject: str, **values: Any) -> InputSpec:
    """Return an input of values that come from a file or from what was typed.

    Args:
        subject: where they come from, for the error.
        values: the values, by the keys of an input.

    Returns:
        The input.

    Raises:
        ClassifierError: they do not fit each other, or are impossible.
    """
    return validate(InputSpec, values, subject)


def validate(model: type[M], content: Any, subject: str) -> M:
    """Return a record of values that come from a file or from what was typed.

    Args:
        model: the record, such as a card or the options of a source.
        content: the values, by the keys of the record.
        subject: where they come from, for the error.

    Returns:
        The record.

    Raises:
        ClassifierError: they hold mistakes, which are all listed.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        mistakes = "; ".join(describe_mistakes(error, model))
        raise ClassifierError(f"{subject}: {mistakes}") from None


def describe_mistakes(error: ValidationError, model: type[BaseModel]) -> Iterator[str]:
    """Yield one clause per mistake that pydantic found while it validated `model`."""
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"])
        if mistake["type"] == "extra_forbidden":
            *parents, word = map(str, mistake["loc"])
            keys = _find_keys(model, parents)
            hint = suggest_nearest(word, keys)
            yield f"{where} is no key of a card{hint} (the keys are {', '.join(keys)})"
        elif mistake["type"] == "missing":
            yield f"{where} is missing"
        else:
            reason = mistake["msg"].removeprefix("Value error, ")
            got = "" if ", got " in reason else f", got {shorten(mistake['input'])}"
            yield f"{where}: {reason[:1].lower()}{reason[1:]}{got}"


def _find_keys(model: type[BaseModel], parents: Sequence[str]) -> list[str]:
    """Return the keys of a record inside of a record, such as those of `input.stretch`."""
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        kinds = [kind for kind in (annotation, *get_args(annotation)) if isinstance(kind, type)]
        model = next((kind for kind in kinds if issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
