"""Methods from outside the package: `my.module:MyMethod`, `FILE.py:MyMethod`, classes, functions.

What is typed or passed in is imported, and checked before anything is measured.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, is_dataclass
from functools import partial
from inspect import isabstract, isroutine
from typing import Any, NamedTuple, TypeAlias, cast, final, get_args
from uuid import uuid4

from apercu.classifiers import Classifier
from apercu.classifiers.names import Target, choose_targets
from apercu.classifiers.trust import FACTORY
from apercu.errors import ConfigError, first_line
from apercu.methods.base import MapExplainer, MapScale, Method, Requirement, Wrapper
from apercu.methods.baselines import TrueBox
from apercu.option_strings import parse_arguments
from apercu.own_code import CODE_ERRORS, check_arguments, import_own
from apercu.types import Images, Maps

MapFunction: TypeAlias = Callable[..., Maps]
"""A function of classifier, images and targets to maps, `batch × height × width`."""

FUNCTION = "function"
"""First word of the cache key of what is measured by every comparison."""
INPUTS = ("classifier", "images", "targets")
"""What a function among the methods is called with."""
OWN_FORM = "package.module:NAME"
"""How an own method or metric is typed, in lists of names."""
_TYPED = re.compile(f"({FACTORY.pattern})(?::(.*))?")
_MEMBERS = ("map_scale", "needs", "cache_key", "training_seconds")
"""What a comparison reads of an explainer; a subclass of `Method` only declares `needs`."""


class OwnText(NamedTuple):
    """A typed method from outside the package: what is imported, and its settings."""

    source: str
    settings: str


@final
@dataclass(frozen=True)
class FunctionExplainer:
    """A function, or an object whose source or state cannot be known, among the methods.

    What it computes cannot be known beforehand, so its results are never taken from an earlier
    comparison.

    Attributes:
        function: the function, called with classifier, images and targets.
        cache_key: a text that no other explainer has.
        map_scale: how the values of its maps are read.
        needs: what it needs, where that is known.
        training_seconds: the time that a training took.
    """

    function: MapFunction = field(repr=False)
    cache_key: str = field(default_factory=lambda: f"{FUNCTION} {uuid4().hex}")
    map_scale: MapScale = "map"
    needs: tuple[Requirement, ...] = ()
    training_seconds: float = 0.0

    def __call__(self, classifier: Classifier, images: Images, targets: Target = None) -> Maps:
        """Return the maps that the function computes."""
        return self.function(classifier, images, choose_targets(classifier, images, targets))


def split_own(text: str) -> OwnText | None:
    """Return the parts of a typed method from outside the package; None of any other text.

    >>> split_own("my.module:MyMethod:sigma=2,steps=3")
    OwnText(source='my.module:MyMethod', settings='sigma=2,steps=3')
    >>> split_own("rise:masks=400")
    """
    match = _TYPED.fullmatch(text)
    return OwnText(match[1], match[2] or "") if match else None


def make_own(source: str, settings: Sequence[str]) -> MapExplainer | TrueBox:
    """Import a method that a person typed, and make it; its code runs.

    Args:
        source: `package.module:NAME` or `FILE.py:NAME` of a class, an object or a function.
        settings: its settings, `key=value` each.

    Returns:
        The method; a function as `FunctionExplainer`.

    Raises:
        ConfigError: there is no such name, it is no method, or a setting is wrong.
    """
    return adopt(import_own(source, "methods"), f"methods: {source}", settings)


def adopt(given: object, label: str, settings: Sequence[str] = ()) -> MapExplainer | TrueBox:
    """Return a class, an object or a function as a comparison takes it, after a check.

    Args:
        given: a subclass of `Method`, a method, an object like one, or a function of classifier,
            images and targets.
        label: the start of an error line.
        settings: settings of a class or a function, `key=value` each.

    Returns:
        The method.

    Raises:
        ConfigError: it is none of these, or a setting is wrong.
    """
    if isinstance(given, type):
        given = _make_instance(given, label, settings)
    elif settings and isroutine(given):
        given = partial(given, **parse_arguments(given, label, settings, "methods"))
    elif settings:
        raise ConfigError(f"{label}: an object takes no settings, got {', '.join(settings)}")
    if isinstance(given, TrueBox | FunctionExplainer):
        return given
    if isinstance(given, Method | Wrapper) or all(hasattr(given, name) for name in _MEMBERS):
        return _check_members(given, label)
    if not callable(given):
        raise ConfigError(
            f"{label}: expected a subclass of apercu.methods.Method, or a function of "
            f"({', '.join(INPUTS)}), got {type(given).__name__}"
        )
    check_arguments(given, INPUTS, label)
    return FunctionExplainer(given)


def name_own(given: object, settings: str = "", names: Mapping[Any, str] | None = None) -> str:
    """Return the name of a row: the snake case of a class or function, with its settings.

    Of an object, those settings are named that are no default.

    >>> name_own(FunctionExplainer), name_own(name_own, "a=1"), name_own(partial(name_own))
    ('function_explainer', 'name_own:a=1', 'name_own')

    Args:
        given: the class, function or object.
        settings: its settings as they were typed.
        names: the names of classes that have one already.

    Returns:
        `name` or `name:key=value,…`.
    """
    while isinstance(given, partial):
        given = given.func
    owner: Any = given if isinstance(given, type) or isroutine(given) else type(given)
    name = (names or {}).get(owner) or _to_snake(owner)
    changes = [settings] if settings else []
    if not settings and owner is not given:
        changes = _list_changes(given)
    if isinstance(given, Wrapper):
        name = name_own(given.method, "", names)
        value = next(getattr(given, f.name) for f in _list_settings(given) if f.name != "method")
        changes = [f"{_to_snake(owner)}={value}"]
    return f"{name}{',' if ':' in name else ':'}{','.join(changes)}" if changes else name


def _to_snake(owner: Any) -> str:
    """Return a name in snake case.

    >>> _to_snake(type("GradCAMLike", (), {}))
    'grad_cam_like'
    """
    name = re.sub(r"\W", "", owner.__name__)
    return re.sub(r"(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _list_settings(given: object) -> list[Field[Any]]:
    return list(fields(given)) if is_dataclass(given) else []


def _list_changes(given: object) -> list[str]:
    """Return the settings of an object that are no default, as they are typed."""
    changes = []
    for each in _list_settings(given):
        value = getattr(given, each.name)
        if not (value is each.default or repr(value) == repr(each.default)):
            changes.append(f"{each.name}={_format(value)}")
    return changes


def _format(value: object) -> str:
    """Return a value as it is typed; what cannot be typed is its type.

    >>> _format((5, 9)), _format(0.5), _format([1, 2])
    ('5/9', '0.5', 'list')
    """
    if isinstance(value, tuple):
        return "/".join(map(_format, value))
    is_plain = value is None or isinstance(value, bool | int | float | str)
    return str(value) if is_plain else type(value).__name__


def _make_instance(kind: type, label: str, settings: Sequence[str]) -> object:
    """Return an object of a class with its settings."""
    is_method = issubclass(kind, Method | Wrapper | TrueBox)
    if not is_method and not all(hasattr(kind, name) for name in _MEMBERS):
        raise ConfigError(
            f"{label}: the class {kind.__name__} is no method; expected a subclass of "
            "apercu.methods.Method with `needs` and `compute_maps`"
        )
    if isabstract(kind):
        raise ConfigError(
            f"{label}: the class {kind.__name__} lacks "
            f"{', '.join(sorted(getattr(kind, '__abstractmethods__', ())))}, which a method has"
        )
    values = parse_arguments(kind, label.removeprefix("methods: "), settings, "methods")
    try:
        return kind(**values)
    except CODE_ERRORS as error:
        raise ConfigError(
            f"{label}: cannot be made: {type(error).__name__} ({first_line(error)}); "
            "expected a default for every setting that is not given"
        ) from error


def _check_members(given: Any, label: str) -> MapExplainer:
    """Check what a comparison reads of a method, so that it does not fail after the work."""
    name = type(given).__name__
    scale: Any = getattr(given, "map_scale", None)
    needs = getattr(given, "needs", None)
    words = get_args(Requirement)
    if not isinstance(needs, tuple) or not set(needs) <= set(words):
        raise ConfigError(
            f"{label}: expected {name}.needs to be a tuple of some of {', '.join(words)}, "
            f"or (), got {needs!r}"
        )
    if scale not in get_args(MapScale):
        raise ConfigError(
            f"{label}: expected {name}.map_scale to be one of {', '.join(get_args(MapScale))}, "
            f"got {scale!r}"
        )
    if not isinstance(given.training_seconds, int | float):
        raise ConfigError(
            f"{label}: expected {name}.training_seconds to be a number, "
            f"got {given.training_seconds!r}"
        )
    is_method = isinstance(given, Method | Wrapper)
    check_arguments(given.compute_maps if is_method else given, INPUTS, f"{label}: {name}")
    if is_method and not given.has_identity:
        return FunctionExplainer(
            given, map_scale=scale, needs=needs, training_seconds=given.training_seconds
        )
    return cast(MapExplainer, given)
