"""The body of an HTTP request → the image that was sent, and how it is to be explained."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from apercu.classifiers import ClassNames
from apercu.classifiers.targets import find_class_indices
from apercu.deploy.serving.errors import BadRequestError, UnsupportedMediaError
from apercu.errors import ConfigError, ImageError, TargetError, suggest_nearest
from apercu.explain.options import TOP, ExplainOptions

MapFormat: TypeAlias = Literal["png", "array", "both"]
MAP_FORMATS: tuple[str, ...] = get_args(MapFormat)
FORM, JSON = "multipart/form-data", "application/json"
FIELDS = ("target", "top", "level", "format", "picture")
MAX_CLASSES = 20
"""Classes that one request may ask about."""
MAX_NAME = 200
"""Letters of a class name."""
MAX_INSTANCES = 32
"""Images in one request of the KServe addresses."""
MAX_FIELDS, MAX_FIELD_SIZE = MAX_CLASSES + 8, 4096
"""Fields of a form beside its file; bytes of each."""
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
    """

    targets: tuple[int, ...] = ()
    top: int = 1
    level: float = ExplainOptions.level
    format: MapFormat | None = "png"
    picture: bool = False


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
    match media := _parse_media_type(content_type):
        case "multipart/form-data":
            return _read_form(parse_form(content_type, body), names)
        case "application/json":
            return _read_object(_parse_json(body), names)
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
    if (media := _parse_media_type(content_type)) != JSON:
        raise UnsupportedMediaError(f"body: expected {JSON}, got {media or 'nothing'}")
    instances = _parse_json(body).get("instances")
    if not isinstance(instances, list) or not 1 <= len(instances) <= MAX_INSTANCES:
        raise BadRequestError(f"instances: expected a list of 1 to {MAX_INSTANCES} images")
    requests = []
    for instance in instances:
        if not isinstance(instance, dict):
            raise BadRequestError("instances: expected objects with a field image")
        fields = {"image": instance} if "b64" in instance else instance
        requests.append(_read_object(fields, names, maps=maps))
    return requests


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
            known = ", ".join(("image", *FIELDS))
            raise ConfigError(f"{key[:MAX_NAME]}: no such field{hint or f'; known: {known}'}")
    options = ExplainOptions(
        top=_parse_number(fields, "top", int, 1),
        level=_parse_number(fields, "level", float, ExplainOptions.level),
    )
    if options.top > MAX_CLASSES:
        raise ConfigError(f"top: expected at most {MAX_CLASSES} classes, got {options.top}")
    return RequestOptions(
        _parse_targets(fields.get("target", TOP), names),
        options.top,
        options.level,
        _parse_format(fields.get("format", "png")) if maps else None,
        _parse_bool(fields.get("picture", False)),
    )


@dataclass
class FormPart:
    """One part of a form.

    Attributes:
        name: name of the field.
        is_file: whether the part has a file name.
        content: bytes of the part.
    """

    name: str
    is_file: bool
    content: bytes = b""

    @property
    def text(self) -> str:
        """The content of a field."""
        return _decode(self.content)


class _FormReader:
    """Collects the parts that the parser of python-multipart finds."""

    def __init__(self) -> None:
        self.parts: list[FormPart] = []
        self._open: FormPart | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._header, self._value, self._disposition = b"", b"", b""

    def on_part_begin(self) -> None:
        self._open, self._pieces, self._size, self._disposition = None, [], 0, b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise _make_form_error("a part has no name")
        self._open = FormPart(_decode(options[b"name"]), b"filename" in options)
        others = sum(part.is_file == self._open.is_file for part in self.parts)
        most = 1 if self._open.is_file else MAX_FIELDS
        if others >= most:
            raise _make_form_error(f"at most {most} {'file' if self._open.is_file else 'fields'}")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._open is not None and not self._open.is_file and self._size > MAX_FIELD_SIZE:
            raise _make_form_error(f"a field has at most {MAX_FIELD_SIZE} bytes")
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        if self._open is not None:
            self._open.content = b"".join(self._pieces)
            self.parts.append(self._open)


def parse_form(content_type: str, body: bytes) -> list[FormPart]:
    """Read the parts of a form, in memory; a part without end is left out.

    Args:
        content_type: header of the request, with the boundary.
        body: bytes of the request.

    Returns:
        The parts in their order.

    Raises:
        BadRequestError: the form is not well formed, or has too many or too large parts.
    """
    _, options = parse_options_header(content_type)
    if not (boundary := options.get(b"boundary")):
        raise _make_form_error("the boundary is missing")
    reader = _FormReader()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise _make_form_error(type(error).__name__) from error
    return reader.parts


def _make_form_error(reason: str) -> BadRequestError:
    return BadRequestError(f"body: expected a well-formed form ({reason})")


def _decode(content: bytes) -> str:
    """Return the text of a name or field: UTF-8, else Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _read_form(parts: Sequence[FormPart], names: ClassNames) -> ExplainRequest:
    images = [part for part in parts if part.name == "image" and part.is_file]
    if len(images) != 1:
        raise ImageError(f"image: expected one file in the field image, got {len(images)}")
    texts: dict[str, list[str]] = {}
    for part in parts:
        if part.name == "image":
            continue
        if part.is_file:
            raise ConfigError(f"{part.name[:40]}: expected text, got a file")
        texts.setdefault(part.name, []).append(part.text)
    fields: dict[str, Any] = {}
    for key, values in texts.items():
        if len(values) > 1 and key != "target":
            raise ConfigError(f"{key[:40]}: expected it once, got it {len(values)} times")
        fields[key] = values if len(values) > 1 else values[0]
    return ExplainRequest(images[0].content, parse_options(fields, names))


def _read_object(body: dict[str, Any], names: ClassNames, *, maps: bool = True) -> ExplainRequest:
    """Read the image of a JSON object: base64, as it is or as `{"b64": "…"}`."""
    image = body.get("image")
    text = image.get("b64") if isinstance(image, dict) else image
    if not isinstance(text, str) or not text:
        raise ImageError("image: expected the bytes of a file in base64")
    fields = {key: value for key, value in body.items() if key != "image"}
    options = parse_options(fields, names, maps=maps)
    try:
        return ExplainRequest(base64.b64decode(text, validate=True), options)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"image: expected base64, got something else ({error})") from error


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
    if words in ([], [TOP], [""]):
        return ()
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


def _parse_format(value: Any) -> MapFormat:
    for name in MAP_FORMATS:
        if value == name:
            return name  # type: ignore[return-value]
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
