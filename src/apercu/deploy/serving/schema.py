"""What /openapi.json says about bodies and answers; FastAPI finds the addresses by itself."""

from __future__ import annotations

from typing import Any

from apercu.deploy.serving.body import MOST_INSTANCES
from apercu.deploy.serving.orders import FORMATS, MOST_CLASSES
from apercu.deploy.serving.problems import MEDIA_TYPE

_TARGET = {"oneOf": [{"type": "string", "maxLength": 200}, {"type": "integer", "minimum": 0}]}
_WANTED: dict[str, Any] = {
    "target": {
        "description": "`top`, or a class by name, identifier or index, or several of them.",
        "oneOf": [*_TARGET["oneOf"], {"type": "array", "items": _TARGET, "maxItems": MOST_CLASSES}],
    },
    "top": {
        "type": "integer",
        "minimum": 1,
        "maximum": MOST_CLASSES,
        "description": "How many of the classes seen most, where target is `top`.",
    },
    "level": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "Where masks are cut for the box.",
    },
    "format": {"type": "string", "enum": list(FORMATS), "description": "Of the maps."},
    "picture": {"type": "boolean", "description": "Send the picture back as a JPEG, too."},
}
_CLASS: dict[str, Any] = {
    "class": {"type": "string"},
    "index": {"type": "integer"},
    "probability": {"type": "number"},
}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
_ANSWER = {
    "type": "object",
    "required": ["class", "index", "probability", "map"],
    "properties": {
        **_CLASS,
        "map": {
            "type": "object",
            "properties": {
                "png": _BASE64,
                "array": {"type": "array", "items": {"type": "array", "items": {"type": "number"}}},
            },
        },
        "box": {"type": ["array", "null"], "items": {"type": "integer"}},
        "area": {"type": "number"},
        "seen": {"type": "string"},
        "change": {"type": "number"},
        "similar": _BASE64,
        "adversarial": _BASE64,
        "strip": {"type": "array", "items": _BASE64},
        "probabilities": {"type": "array", "items": {"type": "number"}},
    },
}
_RECORD = {
    "type": "object",
    "required": ["explainer", "read_by", "size", "top"],
    "properties": {
        "explainer": {"type": "string"},
        "read_by": {"enum": ["classifier", "explainer"]},
        "size": {
            "type": "object",
            "properties": {"width": {"type": "integer"}, "height": {"type": "integer"}},
        },
        "top": {"type": "array", "items": {"type": "object", "properties": _CLASS}},
        "answers": {"type": "array", "items": _ANSWER},
        "picture": _BASE64,
    },
}
_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
    },
}
_REFUSED = {
    "description": "What was wrong, what was expected, what to do.",
    "content": {MEDIA_TYPE: {"schema": _PROBLEM}},
}
_ALWAYS = ("400", "401", "405", "408", "413", "431", "500")
"""What any address may answer."""
_STATUSES = (*_ALWAYS, "404", "415", "422", "429", "503", "504")


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _responses(schema: dict[str, Any]) -> dict[str, Any]:
    answered = {"200": {"description": "Explained.", "content": _json(schema)}}
    return answered | dict.fromkeys(_STATUSES, _REFUSED)


_SENT = {"type": "object", "required": ["image"], "additionalProperties": False}
_FORM = {**_SENT, "properties": {"image": {"type": "string", "format": "binary"}, **_WANTED}}
_OBJECT = {**_SENT, "properties": {"image": _BASE64, **_WANTED}}
_INSTANCE = {
    **_SENT,
    "properties": {"image": {"type": "object", "properties": {"b64": _BASE64}}, **_WANTED},
}
_MANY = {
    "type": "object",
    "required": ["instances"],
    "properties": {
        "instances": {
            "type": "array",
            "minItems": 1,
            "maxItems": MOST_INSTANCES,
            "items": _INSTANCE,
        }
    },
}

EXPLAIN: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": _FORM}, **_json(_OBJECT)},
    },
    "responses": _responses(_RECORD),
}
INSTANCES: dict[str, Any] = {
    "requestBody": {"required": True, "content": _json(_MANY)},
    "responses": _responses({"type": "object"}),
}
PLAIN: dict[str, Any] = {"responses": dict.fromkeys((*_ALWAYS, "404"), _REFUSED)}
HEALTH: dict[str, Any] = {
    "responses": {
        **{status: told for status, told in PLAIN["responses"].items() if status != "401"},
        "503": {"description": "No worker is ready.", "content": {"text/plain": {}}},
    }
}
