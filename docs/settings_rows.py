"""What a class of settings says of itself: its fields, their defaults, limits and meanings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from inspect import cleandoc, getsource
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


class SettingRow(NamedTuple):
    """One setting: its name with points, its default, the values that it may have, its meaning."""

    name: str
    default: str
    allowed: str
    meaning: str


class SettingField(NamedTuple):
    """One field of a class: its name, its type, its default, and the limits of its values."""

    name: str
    hint: Any
    default: Any
    limits: Sequence[object]


def walk_settings(kind: Any, prefix: str = "", of: str = "") -> Iterator[SettingRow]:
    """Yield the settings of a class, those of its parts included.

    Args:
        kind: a pydantic model or a dataclass.
        prefix: names of the parts that lead to it, each with a point at its end.
        of: the form that the settings belong to, if there are several.
    """
    meanings = read_meanings(kind)
    for name, hint, default, limits in list_fields(kind):
        parts = _list_parts(hint)
        meaning = meanings.get(name, "")
        if name == "form":
            meaning = meaning or "Which form this part has."
        if of and name != "form":
            meaning = f"({of}) {meaning}"
        if not parts:
            yield SettingRow(
                prefix + name, describe_default(default), _describe_type(hint, limits), meaning
            )
            continue
        forms = {part: _find_form(part) for part in parts}
        if len(parts) > 1:
            chosen = forms.get(type(default), "")
            words = ", ".join(f"`{form}`" for form in forms.values())
            yield SettingRow(f"{prefix}{name}.form", chosen, f"one of {words}", meaning)
        elif meaning:
            yield SettingRow(prefix + name, "", "the settings below", meaning)
        for part, form in forms.items():
            label = f"form {form}" if len(parts) > 1 else of
            for row in walk_settings(part, f"{prefix}{name}.", label):
                if row.name != f"{prefix}{name}.form":
                    yield row


def list_fields(kind: Any) -> Iterator[SettingField]:
    """Yield each field of a model or a dataclass that can be set; nothing for other classes."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            default = field.get_default(call_default_factory=True)
            yield SettingField(name, field.annotation, default, field.metadata)
        return
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint, limits = _split_annotation(hints[field.name])
        default = PydanticUndefined if field.default is MISSING else field.default
        if field.init:
            yield SettingField(field.name, hint, default, limits)


def _split_annotation(hint: Any) -> tuple[Any, list[object]]:
    """Return a type without its annotation, and the limits that the annotation holds."""
    if get_origin(hint) is not Annotated:
        return hint, []
    plain, *extras = get_args(hint)
    return plain, [m for e in extras for m in (e.metadata if isinstance(e, FieldInfo) else [e])]


def _list_parts(hint: Any) -> list[type]:
    """Return the classes of settings that a field may hold; empty for plain values."""
    if isinstance(hint, type) and (issubclass(hint, BaseModel) or is_dataclass(hint)):
        return [hint]
    if get_origin(hint) in (Annotated, Union, UnionType):
        return [part for argument in get_args(hint) for part in _list_parts(argument)]
    return []


def _find_form(part: Any) -> str:
    """Return the value of `form` that chooses a class of settings."""
    return next((str(field.default) for field in list_fields(part) if field.name == "form"), "")


def read_meanings(kind: Any) -> dict[str, str]:
    """Return what the docstrings of a class and its bases say about each field."""
    meanings: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        text = cleandoc(vars(base).get("__doc__") or "")
        for section in re.findall(r"^(?:Attributes|Args):\n((?:[ ].*\n?|\n)+)", text, re.MULTILINE):
            for names, words in re.findall(
                r"^    ([\w, ]+):\s+((?:.+\n?)(?:^     +.*\n?)*)", section, re.MULTILINE
            ):
                for name in names.split(","):
                    meanings[name.strip()] = _join_lines(words)
        if is_dataclass(base) and base.__module__.startswith("apercu"):
            pattern = r'^    (\w+): [^\n]*\n    """(.*?)"""'
            source = getsource(base)
            meanings |= {n: _join_lines(w) for n, w in re.findall(pattern, source, re.M | re.S)}
    return meanings


def _join_lines(words: str) -> str:
    """Return words on one line that begins with a capital letter."""
    text = " ".join(words.split())
    return text[:1].upper() + text[1:]


def _describe_type(hint: Any, limits: Sequence[object]) -> str:
    """Return in words which values a setting may have."""
    hint, own = _split_annotation(hint)
    limits = [*limits, *own]
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(f"`{value}`" for value in get_args(hint))
    if get_origin(hint) in (Union, UnionType):
        others = [part for part in get_args(hint) if part is not NoneType]
        words = " or ".join(_describe_type(part, limits) for part in others)
        return f"{words}, or none" if NoneType in get_args(hint) else words
    if get_origin(hint) in (tuple, list):
        parts = [part for part in get_args(hint) if part is not Ellipsis]
        return f"a list: {_describe_type(parts[0], ())}" if parts else "a list"
    names = {int: "whole number", float: "number", bool: "true or false", str: "text"}
    word = names.get(hint, getattr(hint, "__name__", str(hint)))
    ends = {"ge": "from {:g}", "gt": "above {:g}", "le": "up to {:g}", "lt": "below {:g}"}
    words = [
        text.format(getattr(limit, end))
        for end, text in ends.items()
        for limit in limits
        if getattr(limit, end, None) is not None
    ]
    return " ".join([word, *words])


def describe_default(default: object) -> str:
    """Return a default as a settings file holds it."""
    if default is PydanticUndefined or default is MISSING:
        return "*required*"
    if isinstance(default, bool):
        return str(default).lower()
    if default is None:
        return "none"
    if isinstance(default, float):
        return f"{default:.4g}"
    if isinstance(default, tuple | list):
        return f"[{', '.join(describe_default(value) for value in default)}]"
    return str(default)
