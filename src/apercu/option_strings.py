"""Parse names with settings as they are typed: `a,b:key=value,key=value,c`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from inspect import isclass, signature
from numbers import Integral
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from apercu.errors import ConfigError, suggest_nearest

T = TypeVar("T")

MAX_SEED = 2**32 - 1
"""The largest seed that every random generator accepts."""


def check_seed(seed: object) -> None:
    """Check a seed that a caller gives.

    Args:
        seed: the seed.

    Raises:
        ConfigError: it is no whole number, or one that some random generator refuses.
    """
    if not (isinstance(seed, Integral) and 0 <= int(seed) <= MAX_SEED):
        raise ConfigError(f"seed: expected a whole number from 0 to {MAX_SEED}, got {seed}")


def split_names(text: str, option: str, valid_names: Iterable[str]) -> list[str]:
    """Split a list of names, each with its own settings.

    A part with `=` but without a name is a further setting of the name before it.

    Args:
        text: the list as it was typed.
        option: name of the option, for error messages.
        valid_names: the names that may be typed, for error messages.

    Returns:
        One text per name.

    Raises:
        ConfigError: the list is empty.

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
    """Split the settings after a name into `key=value` texts, and check that no key is repeated.

    Args:
        name: the name that the settings belong to, for error messages.
        text: `key=value,…`, or an empty text.
        option: name of the option, for error messages.

    Returns:
        One text per setting.

    Raises:
        ConfigError: a key is repeated.
    """
    settings = text.split(",") if text else []
    keys = [setting.partition("=")[0] for setting in settings]
    if repeated := next((key for key in keys if keys.count(key) > 1), None):
        raise ConfigError(f"{option}: {name} has {repeated} twice, expected once")
    return settings


def parse_named(
    text: str,
    classes: Mapping[str, type[T]],
    option: str,
    *,
    seed: int | None = None,
    other_names: Sequence[str] = (),
) -> T:
    """Build the object that a name with settings describes.

    Args:
        text: `name`, or `name:key=value,…`.
        classes: the class of each name.
        option: name of the option, for error messages.
        seed: seed of the object if it has one and the text gives none.
        other_names: further valid names that the caller handles, for error messages.

    Returns:
        An object of the class of that name.

    Raises:
        ConfigError: the name or a setting is unknown, or a value has the wrong type.
    """
    name, _, rest = text.partition(":")
    if name not in classes:
        names = (*other_names, *classes)
        suggestion = suggest_nearest(name, names)
        raise ConfigError(f"{option}: expected some of {', '.join(names)}, got {name}{suggestion}")
    values = parse_arguments(classes[name], name, parse_settings(name, rest, option), option)
    if seed is not None and "seed" in signature(classes[name]).parameters:
        values.setdefault("seed", seed)
    return classes[name](**values)


def parse_arguments(
    target: Callable[..., Any], name: str, settings: Sequence[str], option: str
) -> dict[str, object]:
    """Parse settings as keyword arguments of a class or function.

    Args:
        target: a class or function with annotated parameters; a class may have
            `renamed_settings`, today's names by the older ones that may still be typed.
        name: its name as it was typed, for error messages.
        settings: one `key=value` text per setting.
        option: name of the option, for error messages.

    Returns:
        The value of each parameter that is set.

    Raises:
        ConfigError: a key is unknown, or a value has the wrong type.
    """
    parameters = list(signature(target).parameters)
    renamed: Mapping[str, str] = getattr(target, "renamed_settings", {})
    hints = _find_types(target, name, option) if settings else {}
    values: dict[str, object] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        key = renamed.get(key, key)
        if key in values:
            raise ConfigError(f"{option}: {name} has {key} twice, expected once")
        if key not in parameters:
            expected = ", ".join(parameters) or "none"
            suggestion = suggest_nearest(key, parameters)
            raise ConfigError(
                f"{option}: {name} has no setting {key}, expected {expected}{suggestion}"
            )
        if key not in hints:
            raise ConfigError(
                f"{option}: {name}:{key} has no type; annotate the setting, as in {key}: float"
            )
        try:
            values[key] = parse_value(hints[key], text)
        except ValueError as error:
            raise ConfigError(
                f"{option}: expected {error} for {name}:{key}, got {text!r}"
            ) from None
    return values


def _find_types(target: Callable[..., Any], name: str, option: str) -> dict[str, Any]:
    """Return the types of the fields of a class and of the parameters of its construction."""
    try:
        own = get_type_hints(target)
        return {**get_type_hints(target.__init__), **own} if isclass(target) else own
    except (NameError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{option}: the types of the settings of {name} cannot be read: {error}"
        ) from None


def parse_value(hint: object, text: str) -> object:
    """Convert a text to an annotated type; raises ValueError that says what was expected.

    >>> parse_value(float, "8/255"), parse_value(int | None, "3")
    (0.03137254901960784, 3)
    >>> parse_value(tuple[float, ...], "1/2")
    (1.0, 2.0)
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
    to = next(each for each in (get_args(hint) or (hint,)) if each is not type(None))
    if to is bool:
        if text not in ("true", "false"):
            raise ValueError("true or false")
        return text == "true"
    try:
        return float(Fraction(text)) if to is float and "/" in text else to(text)
    except (ValueError, ZeroDivisionError):
        raise ValueError(to.__name__) from None
