"""The body of an HTTP request → the image that was sent, and how it is to be explained."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, TypeVar, cast, get_args

from apercu.classifiers import ClassNames
from apercu.classifiers.names import find_class_indices
from apercu.deploy.serving.bodies import IMAGE, FormPart, decode_base64, parse_form
from apercu.deploy.serving.errors import BadRequestError, UnsupportedMediaError
from apercu.errors import ApercuError, ConfigError, ImageError, TargetError, suggest_nearest
from apercu.explain.options import PREDICTED, TOP, ExplainOptions

T = TypeVar("T")
MapFormat: TypeAlias = Literal["png", "array", "both"]
MAP_FORMATS: tuple[str, ...] = get_args(MapFormat)
FORM, JSON = "multipart/form-data", "application/json"
FIELDS = ("target", "top", "level", "format", "picture", "frame", "bands", "cases")
MAX_CLASSES = 20
"""Largest number of classes in one request."""
MAX_NAME = 200
"""Letters of a class name."""
MAX_INSTANCES = 32
"""Images in one request of the KServe addresses."""
MAX_BANDS = 64
"""Bands that one request may name."""
MAX_CASES = 20
"""Similar cases in one response, for each way to compare."""
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no", "")


@dataclass(frozen=True)
class RequestOptions:
    """How one image is to be explained.

    Args:
        targets: class indices; if empty, the classes with the highest probabilities.
        top: how many of these.
        level: threshold of the mask for its box.
        format: format of the maps; None leaves them out and answers the prediction alone.
        picture: whether to send the picture back, for pages that cannot decode it themselves.
        frame: index of the frame of a DICOM file, or of the page of a TIFF file.
        bands: names of the bands of a FITS file, one per channel or one for all; None takes those
            that the classifier names.
        only_predicted: whether all predicted classes are explained, in place of `targets`.
        is_prepared: whether the image was decoded already; no client can say so.
        cases: how many similar cases are returned for each way to compare.
    """

    targets: tuple[int, ...] = ()
    top: int = 1
    level: float = ExplainOptions.level
    format: MapFormat | None = "png"
    picture: bool = False
    frame: int = 0
    bands: tuple[str, ...] | None = None
    only_predicted: bool = False
    is_prepared: bool = False
    cases: int = 0


@dataclass(frozen=True)
class ExplainRequest:
    """One image to be explained.

    Args:
        image: bytes of the file, as they were sent.
        options: how it is to be explained.
    """

    image: bytes
    options: RequestOptions = field(default_factory=RequestOptions)


def parse_body(content_type: str, body: bytes, names: ClassNames) -> ExplainRequest:
    """Read the one image of a form or of a JSON object.

    Args:
        content_type: header of the request.
        body: bytes of the request.
        names: names of the classes.

    Returns:
        The image and its options.

    Raises:
        UnsupportedMediaError: the body has another type.
        BadRequestError: the body is not well formed.
        InputError: a field is wrong.
    """
    media = _parse_media_type(content_type)
    if media == FORM:
        return _read_form(parse_form(content_type, body), names)
    if media == JSON:
        return read_object(_parse_json(body), names)
    raise UnsupportedMediaError(
        f"body: expected {FORM} with a field image, or {JSON}, got {media or 'nothing'}"
    )


def parse_instances(
    content_type: str, body: bytes, names: ClassNames, *, maps: bool
) -> list[ExplainRequest]:
    """Read the images of a KServe request: `{"instances": [{"image": {"b64": "…"}}, …]}`.

    Args:
        content_type: header of the request.
        body: bytes of the request.
        names: names of the classes.
        maps: whether maps are wanted.

    Returns:
        One request for each image.

    Raises:
        UnsupportedMediaError: the body is no JSON.
        BadRequestError: the body is not well formed.
        InputError: an instance is wrong.
    """
    instances = parse_json_body(content_type, body).get("instances")
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise BadRequestError(f"instances: expected a list of 1 to {MAX_INSTANCES} images")
    requests = []
    for place, instance in name_places("instances", instances):
        if not isinstance(instance, dict):
            raise BadRequestError("instances: expected objects with a field image")
        if "b64" in instance:
            others = {key: value for key, value in instance.items() if key != "b64"}
            instance = {**others, IMAGE: instance["b64"]}
        with begin_errors(place):
            requests.append(read_object(instance, names, maps=maps))
    return requests


def name_places(key: str, items: Sequence[T]) -> Iterator[tuple[str, T]]:
    """Yield what a request holds, each with its place; a single one has none.

    >>> list(name_places("data", "ab"))
    [('data[0]: ', 'a'), ('data[1]: ', 'b')]
    """
    for number, item in enumerate(items):
        yield (f"{key}[{number}]: " if len(items) > 1 else ""), item


@contextmanager
def begin_errors(place: str) -> Iterator[None]:
    """Begin the line of an error that is raised within the block with a place."""
    try:
        yield
    except ApercuError as error:
        error.args = (f"{place}{error}",)
        raise


def parse_options(
    fields: Mapping[str, Any], names: ClassNames, *, maps: bool = True
) -> RequestOptions:
    """Read the options among the fields of a form or a JSON object.

    Args:
        fields: text or numbers, by name.
        names: names of the classes.
        maps: whether maps are wanted.

    Returns:
        The options.

    Raises:
        ConfigError: a field is misspelt or out of range.
        TargetError: there is no such class.
    """
    for key in fields:
        if key not in FIELDS:
            hint = suggest_nearest(key[:MAX_NAME], FIELDS)
            words = ", ".join(("image", *FIELDS))
            raise ConfigError(f"{key[:MAX_NAME]}: no such field{hint or f'; known: {words}'}")
    options = ExplainOptions(
        top=_parse_number(fields, "top", int, 1),
        level=_parse_number(fields, "level", float, ExplainOptions.level),
    )
    if options.top > MAX_CLASSES:
        raise ConfigError(f"top: expected at most {MAX_CLASSES} classes, got {options.top}")
    cases: int = _parse_number(fields, "cases", int, 0)
    if not 0 <= cases <= MAX_CASES:
        raise ConfigError(f"cases: expected a number up to {MAX_CASES}, got {cases}")
    return RequestOptions(
        targets=_parse_targets(fields.get("target", ""), names),
        top=options.top,
        level=options.level,
        format=_parse_format(fields.get("format", "png")) if maps else None,
        picture=_parse_bool(fields.get("picture", False)),
        frame=_parse_frame(fields),
        bands=_parse_bands(fields.get("bands")),
        only_predicted=fields.get("target") in (PREDICTED, [PREDICTED]),
        cases=cases,
    )


def _read_form(parts: Sequence[FormPart], names: ClassNames) -> ExplainRequest:
    images = [part for part in parts if part.name == IMAGE]
    if len(images) != 1:
        raise ImageError(f"image: expected one file in the field image, got {len(images)}")
    texts: dict[str, list[str]] = {}
    for part in parts:
        if part.name == IMAGE:
            continue
        if part.is_file:
            raise ConfigError(f"{part.name[:40]}: expected text, got a file")
        texts.setdefault(part.name, []).append(part.text)
    fields: dict[str, Any] = {}
    for key, values in texts.items():
        if len(values) > 1 and key not in ("target", "bands"):
            raise ConfigError(f"{key[:40]}: expected it once, got it {len(values)} times")
        fields[key] = values if len(values) > 1 else values[0]
    return ExplainRequest(images[0].image, parse_options(fields, names))


def read_object(fields: dict[str, Any], names: ClassNames, *, maps: bool = True) -> ExplainRequest:
    """Read the image of a JSON object: base64 or a data: URI, as it is or as `{"b64": "…"}`.

    Args:
        fields: the object.
        names: names of the classes.
        maps: whether maps are wanted.

    Returns:
        The image and its options.

    Raises:
        InputError: a field is wrong.
    """
    image = fields.get(IMAGE)
    text = image.get("b64") if isinstance(image, dict) else image
    if not isinstance(text, str) or not text:
        raise ImageError("image: expected the bytes of a file in base64")
    others = {key: value for key, value in fields.items() if key != IMAGE}
    options = parse_options(others, names, maps=maps)
    return ExplainRequest(decode_base64(text), options)


def parse_json_body(content_type: str, body: bytes) -> dict[str, Any]:
    """Read the JSON object of a request.

    Args:
        content_type: header of the request.
        body: bytes of the request.

    Returns:
        The object.

    Raises:
        UnsupportedMediaError: the body has another type.
        BadRequestError: it is no JSON object.
    """
    if (media := _parse_media_type(content_type)) != JSON:
        raise UnsupportedMediaError(f"body: expected {JSON}, got {media or 'nothing'}")
    return _parse_json(body)


def _parse_media_type(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()[:80]


def _parse_json(content: bytes) -> dict[str, Any]:
    try:
        body = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRequestError(f"body: expected JSON ({type(error).__name__})") from error
    if not isinstance(body, dict):
        raise BadRequestError(f"body: expected a JSON object, got a {type(body).__name__}")
    return body


def _parse_targets(value: Any, names: ClassNames) -> tuple[int, ...]:
    words = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    if len(words) > MAX_CLASSES:
        raise TargetError(f"target: expected at most {MAX_CLASSES} classes, got {len(words)}")
    if any(isinstance(word, str) and len(word) > MAX_NAME for word in words):
        raise TargetError(f"target: expected a name of at most {MAX_NAME} letters")
    if any(not isinstance(word, str | int) for word in words):
        raise TargetError("target: expected a class name or index, or several")
    if words in ([TOP], [PREDICTED]) and (same := names.find_by_name(words[0])):
        raise TargetError(
            f"target: {words[0]} has a meaning of its own here, and there is also a class of this "
            f"name; give the index of the class, {same[0]}, or leave target out for the predicted "
            "class"
        )
    if words in ([], [TOP], [PREDICTED], [""]):
        return ()
    for word in (TOP, PREDICTED):
        if word in words and not names.find_by_name(word):
            raise TargetError(
                f"target: {word} names no class, so nothing stands beside it; send it alone, or "
                "name the classes"
            )
    return tuple(dict.fromkeys(find_class_indices(names, words).tolist()))


def _parse_number(
    fields: Mapping[str, Any], key: str, kind: type[int] | type[float], default: int | float
) -> Any:
    value = fields.get(key, default)
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            if kind(value) == float(value):
                return kind(value)
        except (ValueError, OverflowError):
            pass
    expected = "a whole number" if kind is int else "a number"
    raise ConfigError(f"{key}: expected {expected}, got {_shorten(value)}")


def _parse_frame(fields: Mapping[str, Any]) -> int:
    """Return the index of the frame; callers count from 1, as DICOM does."""
    frame: int = _parse_number(fields, "frame", int, 1)
    if frame < 1:
        raise ConfigError(f"frame: expected a number from 1 on, got {frame}")
    return frame - 1


def _parse_bands(value: Any) -> tuple[str, ...] | None:
    """Read names of bands: a list, or one text with commas; None and an empty text name none."""
    words = value.split(",") if isinstance(value, str) else value
    if words is None or words in ([], [""]):
        return None
    if not isinstance(words, Sequence) or len(words) > MAX_BANDS:
        raise ConfigError(
            f"bands: expected a list of at most {MAX_BANDS} names, got {_shorten(value)}"
        )
    if any(not isinstance(word, str) or not 0 < len(word.strip()) <= MAX_NAME for word in words):
        raise ConfigError(f"bands: expected names such as SCI or SCI:2, got {_shorten(value)}")
    return tuple(word.strip() for word in words)


def _parse_format(value: Any) -> MapFormat:
    if value in MAP_FORMATS:
        return cast(MapFormat, value)
    raise ConfigError(f"format: expected one of {', '.join(MAP_FORMATS)}, got {_shorten(value)}")


def _parse_bool(value: Any) -> bool:
    word = str(value).lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ConfigError(f"picture: expected true or false, got {_shorten(value)}")


def _shorten(value: Any) -> str:
    """Return a value for a message, cut short."""
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"
