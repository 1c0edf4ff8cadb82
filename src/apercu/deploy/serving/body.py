"""The body of a request → the image that was sent, and what is asked about it."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from apercu.classifiers import ClassNames
from apercu.deploy.serving.errors import GoneError, MediaError, RequestError
from apercu.deploy.serving.orders import MOST_CLASSES, Order, read_wanted
from apercu.errors import ConfigError, ImageError

FORM, JSON = "multipart/form-data", "application/json"
MOST_FIELDS = MOST_CLASSES + 8
LONGEST_FIELD = 4096
MOST_INSTANCES = 32
"""Images in one request of the KServe addresses."""


async def read_order(request: Request, names: ClassNames) -> Order:
    """One image, from a form or a JSON object.

    Raises:
        MediaError: the body is neither.
        GoneError: it ends early.
        RequestError: it is not well formed.
        InputError: a field is wrong.
    """
    kind = _kind(request)
    if kind == FORM:
        return await _from_form(request, names)
    if kind == JSON:
        return from_json(await _json(request), names)
    raise MediaError(
        f"body: expected {FORM} with a field image, or {JSON}, got {kind or 'nothing'}"
    )


async def read_instances(request: Request, names: ClassNames, *, maps: bool) -> list[Order]:
    """The images of a KServe request: `{"instances": [{"image": {"b64": "…"}}, …]}`.

    Raises:
        MediaError: the body is no JSON.
        GoneError: it ends early.
        RequestError: it is not well formed.
        InputError: an instance is wrong.
    """
    if (kind := _kind(request)) != JSON:
        raise MediaError(f"body: expected {JSON}, got {kind or 'nothing'}")
    body = await _json(request)
    found = body.get("instances")
    if not isinstance(found, list) or not 1 <= len(found) <= MOST_INSTANCES:
        raise RequestError(f"instances: expected a list of 1 to {MOST_INSTANCES} images")
    orders = []
    for instance in found:
        if not isinstance(instance, dict):
            raise RequestError("instances: expected objects with a field image")
        fields = {"image": instance} if "b64" in instance else instance
        orders.append(from_json(fields, names, maps=maps))
    return orders


def from_json(body: dict[str, Any], names: ClassNames, *, maps: bool = True) -> Order:
    """One image of a JSON object: base64, as it is or as `{"b64": "…"}`.

    Raises:
        InputError: a field is wrong.
    """
    image = body.get("image")
    text = image.get("b64") if isinstance(image, dict) else image
    if not isinstance(text, str) or not text:
        raise ImageError("image: expected the bytes of a file in base64")
    fields = {key: value for key, value in body.items() if key != "image"}
    wanted = read_wanted(fields, names, maps=maps)
    try:
        return Order(base64.b64decode(text, validate=True), wanted)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"image: expected base64, got something else ({error})") from error


async def _from_form(request: Request, names: ClassNames) -> Order:
    try:
        async with request.form(
            max_files=1, max_fields=MOST_FIELDS, max_part_size=LONGEST_FIELD
        ) as form:
            return _order(form, names)
    except HTTPException as error:
        raise RequestError(f"body: expected a well-formed form ({error.detail})") from error
    except ClientDisconnect as error:
        raise GoneError("body: cut short, the caller hung up") from error


def _order(form: FormData, names: ClassNames) -> Order:
    images = [value for value in form.getlist("image") if isinstance(value, UploadFile)]
    if len(images) != 1:
        raise ImageError(f"image: expected one file in the field image, got {len(images)}")
    fields: dict[str, Any] = {}
    for key in form:
        values = form.getlist(key)
        if key == "image":
            continue
        if any(isinstance(value, UploadFile) for value in values):
            raise ConfigError(f"{key[:40]}: expected text, got a file")
        if len(values) > 1 and key != "target":
            raise ConfigError(f"{key[:40]}: expected it once, got it {len(values)} times")
        fields[key] = values if len(values) > 1 else values[0]
    return Order(images[0].file.read(), read_wanted(fields, names))


def _kind(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()[:80]


async def _json(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise RequestError(f"body: expected JSON ({type(error).__name__})") from error
    except ClientDisconnect as error:
        raise GoneError("body: cut short, the caller hung up") from error
    if not isinstance(body, dict):
        raise RequestError(f"body: expected a JSON object, got a {type(body).__name__}")
    return body
