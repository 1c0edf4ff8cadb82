"""What a caller asks about an image, as it travels from the web process to a worker and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from apercu.classifiers import ClassNames
from apercu.classifiers.targets import find_class_indices
from apercu.errors import ConfigError, TargetError, suggest_nearest
from apercu.explain.options import TOP, ExplainOptions

Format: TypeAlias = Literal["png", "array", "both"]
FORMATS: tuple[str, ...] = get_args(Format)
MOST_CLASSES = 20
"""That one request may ask about."""
LONGEST_NAME = 200
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


@dataclass(frozen=True)
class Wanted:
    """What is asked about one image.

    Args:
        targets: class indices; none stands for the classes seen most.
        top: how many of these.
        level: where a mask is cut for the box.
        format: of the maps; None wants no maps, the prediction alone.
        picture: whether to send the picture back, for pages that cannot read it themselves.
    """

    targets: tuple[int, ...] = ()
    top: int = 1
    level: float = ExplainOptions.level
    format: Format | None = "png"
    picture: bool = False


@dataclass(frozen=True)
class Order:
    """One image, as it was sent, and what is asked about it."""

    image: bytes
    wanted: Wanted


@dataclass(frozen=True)
class Made:
    """What a worker made of an order.

    Args:
        status: of the answer.
        body: JSON.
        batch: images that were taken together, told by the first of them; 0 by the others.
    """

    status: int
    body: bytes
    batch: int = 0


FIELDS = ("target", "top", "level", "format", "picture")


def read_wanted(fields: Mapping[str, Any], names: ClassNames, *, maps: bool = True) -> Wanted:
    """What the fields of a form, or of a JSON object, ask for.

    Args:
        fields: by name; words or numbers.
        names: of the classes.
        maps: whether there will be maps.

    Raises:
        ConfigError: a field is misspelt or out of range.
        TargetError: there is no such class.
    """
    for key in fields:
        if key not in FIELDS:
            hint = suggest_nearest(key[:LONGEST_NAME], FIELDS)
            known = ", ".join(("image", *FIELDS))
            raise ConfigError(f"{key[:LONGEST_NAME]}: no such field{hint or f'; known: {known}'}")
    asked = ExplainOptions(
        top=_number(fields, "top", int, 1),
        level=_number(fields, "level", float, ExplainOptions.level),
    )
    if asked.top > MOST_CLASSES:
        raise ConfigError(f"top: expected at most {MOST_CLASSES} classes, got {asked.top}")
    return Wanted(
        _targets(fields.get("target", TOP), names),
        asked.top,
        asked.level,
        _format(fields.get("format", "png")) if maps else None,
        _truth(fields.get("picture", False)),
    )


def _targets(asked: Any, names: ClassNames) -> tuple[int, ...]:
    words = list(asked) if isinstance(asked, Sequence) and not isinstance(asked, str) else [asked]
    if len(words) > MOST_CLASSES:
        raise TargetError(f"target: expected at most {MOST_CLASSES} classes, got {len(words)}")
    if any(isinstance(word, str) and len(word) > LONGEST_NAME for word in words):
        raise TargetError(f"target: expected a name of at most {LONGEST_NAME} letters")
    if any(not isinstance(word, str | int) for word in words):
        raise TargetError("target: expected a class name or index, or several")
    if words in ([], [TOP], [""]):
        return ()
    return tuple(dict.fromkeys(find_class_indices(names, words).tolist()))


def _number(fields: Mapping[str, Any], key: str, kind: type, usual: int | float) -> Any:
    value = fields.get(key, usual)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            if kind(value) == float(value):
                return kind(value)
        except (ValueError, OverflowError):
            pass
    wanted = "a whole number" if kind is int else "a number"
    raise ConfigError(f"{key}: expected {wanted}, got {_shown(value)}")


def _format(value: Any) -> Format:
    for known in FORMATS:
        if value == known:
            return known  # type: ignore[return-value]
    raise ConfigError(f"format: expected one of {', '.join(FORMATS)}, got {_shown(value)}")


def _truth(value: Any) -> bool:
    word = str(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ConfigError(f"picture: expected true or false, got {_shown(value)}")


def _shown(value: Any) -> str:
    """A value for a message, cut short."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
