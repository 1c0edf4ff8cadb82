"""Values with settings as they are typed: `a,b:key=value,key=value,c`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from inspect import signature
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from apercu.errors import ConfigError, suggest_nearest

T = TypeVar("T")

MAX_SEED = 2**32 - 1
"""The largest seed that every generator takes."""


def split_names(text: str, option: str, valid_names: Iterable[str]) -> list[str]:
    """Names with their settings; a part with = but no name goes on with the one before.

    >>> split_names("a,b:x=1,y=2,c", "methods", ())
    ['a', 'b:x=1,y=2', 'c']
    """
    names: list[str] = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        if "=" in part and ":" not in part and names:
            names[-1] += f",{part}"
        else:
            names.append(part)
    if not names:
        words = ", ".join(valid_names)
        some = f"some of {words}" if words else "at least one"
        raise ConfigError(f"{option}: expected {some}, got none")
    return names


def parse_settings(name: str, text: str, option: str) -> list[str]:
    """The settings behind a name, each once."""
    settings = text.split(",") if text else []
    keys = [setting.partition("=")[0] for setting in settings]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"{option}: {name} has {twice} twice, expected once")
    return settings


def parse_named(
    text: str,
    classes: Mapping[str, type[T]],
    option: str,
    *,
    seed: int | None = None,
    other_names: Sequence[str] = (),
) -> T:
    """The value that a name with settings stands for.

    Args:
        text: `name`, or `name:key=value,…`.
        kinds: what the names stand for.
        what: the option, for messages.
        seed: of what draws, unless the text says its own.
        besides: other words that could have been typed, for messages.

    Raises:
        ConfigError: the name or a setting is unknown, or a value does not fit.
    """
    word, _, rest = text.partition(":")
    if word not in classes:
        known = (*other_names, *classes)
        raise ConfigError(
            f"{option}: expected some of {', '.join(known)}, got {word}{suggest_nearest(word, known)}"
        )
    values = parse_arguments(classes[word], word, parse_settings(word, rest, option), option)
    if seed is not None and "seed" in signature(classes[word]).parameters:
        values.setdefault("seed", seed)
    return classes[word](**values)


def parse_arguments(
    target: Callable[..., Any], name: str, settings: Sequence[str], option: str
) -> dict[str, object]:
    """What `kind` is called with.

    Args:
        kind: a class or function with annotated parameters.
        word: how it is named.
        settings: each `key=value`.
        what: the option, for messages.

    Raises:
        ConfigError: a key is unknown, or a value does not fit.
    """
    known = list(signature(target).parameters)
    hints = get_type_hints(target)
    values: dict[str, object] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in known:
            expected = ", ".join(known) or "none"
            raise ConfigError(
                f"{option}: {name} has no setting {key}, expected {expected}{suggest_nearest(key, known)}"
            )
        try:
            values[key] = parse_value(hints[key], text)
        except ValueError as error:
            raise ConfigError(
                f"{option}: expected {error} for {name}:{key}, got {text!r}"
            ) from None
    return values


def parse_value(hint: object, text: str) -> object:
    """A word as the type that a setting has; raises ValueError with what was expected.

    >>> read(float, "8/255"), read(int | None, "3"), read(tuple[float, ...], "1/2")
    (0.03137254901960784, 3, (1.0, 2.0))
    """
    if get_origin(hint) is Literal:
        if text not in get_args(hint):
            raise ValueError(f"one of {', '.join(get_args(hint))}")
        return text
    if get_origin(hint) is tuple:
        try:
            return tuple(get_args(hint)[0](part) for part in text.split("/"))
        except ValueError:
            raise ValueError("numbers with / between them") from None
    to = next(one for one in (get_args(hint) or (hint,)) if one is not type(None))
    if to is bool:
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"
    try:
        return float(Fraction(text)) if to is float and "/" in text else to(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(to.__name__) from None
