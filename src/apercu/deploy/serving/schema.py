"""The OpenAPI document of a server, which /openapi.json sends."""

from __future__ import annotations

from typing import Any, TypeAlias

from apercu.deploy.serving.open_inference import BYTES, OUTPUT
from apercu.deploy.serving.requests import (
    MAP_FORMATS,
    MAX_BANDS,
    MAX_CASES,
    MAX_CLASSES,
    MAX_INSTANCES,
    MAX_NAME,
)
from apercu.deploy.serving.responses import PROBLEM_JSON
from apercu.deploy.serving.security import OPEN_PATHS
from apercu.verdicts import QUESTIONS

Schema: TypeAlias = dict[str, Any]
_TARGET = {"oneOf": [{"type": "string", "maxLength": MAX_NAME}, {"type": "integer", "minimum": 0}]}
_OPTIONS: Schema = {
    "target": {
        "description": "`top`, `predicted` (all predicted classes), or a class by name, identifier "
        "or index, or several of them.",
        "oneOf": [*_TARGET["oneOf"], {"type": "array", "items": _TARGET, "maxItems": MAX_CLASSES}],
    },
    "top": {
        "type": "integer",
        "minimum": 1,
        "maximum": MAX_CLASSES,
        "description": "How many of the classes seen most, where target is `top`.",
    },
    "level": {
        "type": "number",
        "exclusiveMinimum": 0,
        "exclusiveMaximum": 1,
        "description": "Where masks are cut for the box.",
    },
    "format": {"type": "string", "enum": list(MAP_FORMATS), "description": "Of the maps."},
    "picture": {"type": "boolean", "description": "Send the picture back as a JPEG, too."},
    "frame": {
        "type": "integer",
        "minimum": 1,
        "description": "Of a DICOM file; or the page of a TIFF file. The first is 1.",
    },
    "bands": {
        "description": "Of a FITS file, one per channel or one for all: `SCI`, `SCI:2`, `3`.",
        "oneOf": [
            {"type": "string"},
            {
                "type": "array",
                "items": {"type": "string", "minLength": 1, "maxLength": MAX_NAME},
                "maxItems": MAX_BANDS,
            },
        ],
    },
}
_CASES: Schema = {
    "type": "integer",
    "minimum": 0,
    "maximum": MAX_CASES,
    "description": "How many similar cases are returned, by the whole image and by the region.",
}
_CLASS: Schema = {
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
        "area": {"type": "number", "description": "Mean of the mask."},
        "region_area": {
            "type": "number",
            "description": "Of the region where the mask reaches the level, as a fraction.",
        },
        "seen": {"type": "string"},
        "change": {"type": "number", "description": "Mean of the map."},
        "largest_change": {"type": "number"},
        "similar": _BASE64,
        "adversarial": _BASE64,
        "strip": {"type": "array", "items": _BASE64},
        "probabilities": {"type": "array", "items": {"type": "number"}},
        "strip_classes": {"type": "array", "items": {"type": "string"}},
        "kept": {"type": "boolean", "description": "The similar image has the class of the image."},
        "flipped": {"type": "boolean", "description": "The adversarial image has the target."},
    },
}
_FRACTION = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
_TRUST: Schema = {
    "type": "object",
    "description": "With a guard: whether the prediction may be believed. tampered and unknown are "
    "the fractions of clean images that look less so; null where the guard cannot judge.",
    "required": ["tampered", "unknown", "confidence", "alarms", "why"],
    "properties": {
        **dict.fromkeys(("tampered", "unknown", "confidence"), _FRACTION),
        "alarms": {"type": "array", "items": {"enum": list(QUESTIONS)}},
        "why": {"type": "string"},
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
        "frames": {"type": "integer", "description": "Of the file."},
        "top": {"type": "array", "items": {"type": "object", "properties": _CLASS}},
        "runner_up": {"type": ["object", "null"], "properties": _CLASS},
        "predicted": {"type": "array", "items": {"type": "string"}},
        "value": {"type": "number"},
        "answers": {"type": "array", "items": _ANSWER},
        "picture": _BASE64,
        "trust": _TRUST,
    },
}
_SIMILAR = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "label", "predicted", "distance", "picture"],
        "properties": {
            "name": {"type": "string"},
            "label": {"type": ["string", "null"]},
            "predicted": {"type": ["string", "null"]},
            "distance": {"type": "number"},
            "picture": _BASE64,
        },
    },
}
_FOUND: Schema = {
    "type": "object",
    "description": "Similar cases, the nearest ones first, where they are asked for.",
    "required": ["by_features", "by_region"],
    "properties": {"by_features": _SIMILAR, "by_region": _SIMILAR},
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
    "content": {PROBLEM_JSON: {"schema": _PROBLEM}},
}
_ALWAYS = ("400", "401", "403", "405", "408", "413", "431", "500")
"""What any address may answer."""
_STATUSES = (*_ALWAYS, "404", "415", "422", "429", "503", "504")


_TEXT: Schema = {"text/plain": {"schema": {"type": "string"}}}


def _wrap_json(schema: Schema) -> Schema:
    return {"application/json": {"schema": schema}}


def _describe_responses(schema: Schema) -> Schema:
    answered = {"200": {"description": "Explained.", "content": _wrap_json(schema)}}
    return answered | dict.fromkeys(_STATUSES, _REFUSED)


_SENT = {"type": "object", "required": ["image"], "additionalProperties": False}
_FORM = {**_SENT, "properties": {"image": {"type": "string", "format": "binary"}, **_OPTIONS}}
_OBJECT = {**_SENT, "properties": {"image": _BASE64, **_OPTIONS}}
_INSTANCE = {
    **_SENT,
    "properties": {"image": {"type": "object", "properties": {"b64": _BASE64}}, **_OPTIONS},
}
_MANY = {
    "type": "object",
    "required": ["instances"],
    "properties": {
        "instances": {
            "type": "array",
            "minItems": 1,
            "maxItems": MAX_INSTANCES,
            "items": _INSTANCE,
        }
    },
}

_TENSOR: Schema = {
    "type": "object",
    "required": ["name", "shape", "datatype", "data"],
    "properties": {
        "name": {"const": "image"},
        "shape": {"type": "array", "items": {"type": "integer"}},
        "datatype": {"const": BYTES},
        "data": {"type": "array", "minItems": 1, "maxItems": MAX_INSTANCES, "items": _BASE64},
    },
}
_INFERENCE: Schema = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object", "properties": _OPTIONS, "additionalProperties": False},
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": _TENSOR},
    },
}
_INFERRED: Schema = {
    "type": "object",
    "required": ["model_name", "outputs"],
    "properties": {
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"const": OUTPUT},
                    "data": {"type": "array", "items": {"type": "string"}},
                },
            },
        }
    },
}

_NAME = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
_BEARER = "HTTPBearer"


def describe_server(name: str, *, locked: bool, has_cases: bool = False) -> Schema:
    """Return the OpenAPI document of a server.

    Args:
        name: name of the explainer.
        locked: whether clients must send a token.
        has_cases: whether similar cases can be asked for.

    Returns:
        The document, as JSON can hold it.
    """
    model, model_v2 = "/v1/models/{name}", "/v2/models/{name}"
    paths: dict[str, dict[str, Schema]] = {
        "/v1/explain": {
            "post": {
                "summary": "Explain one image.",
                "requestBody": {
                    "required": True,
                    "content": {"multipart/form-data": {"schema": _FORM}, **_wrap_json(_OBJECT)},
                },
                "responses": _describe_responses(_RECORD),
            }
        },
        f"{model}:predict": {
            "post": _describe_instances(
                "Predict the classes of several images (KServe, protocol 1)."
            )
        },
        f"{model}:explain": {
            "post": _describe_instances("Explain several images (KServe, protocol 1).")
        },
        "/v1/models": {
            "get": _describe_plain("Name the explainer that is served.", _wrap_json({}))
        },
        model: {
            "get": _describe_plain("Describe the explainer that is served.", _wrap_json({}))
            | {"parameters": [_NAME]}
        },
        "/v2": {
            "get": _describe_plain("Describe the server (KServe, protocol 2).", _wrap_json({}))
        },
        "/v2/health/live": {
            "get": _describe_health("Say that the web process runs.", _wrap_json({}))
        },
        "/v2/health/ready": {
            "get": _describe_health("Say whether a worker is ready.", _wrap_json({}))
        },
        model_v2: {
            "get": _describe_plain(
                "Describe input and output (KServe, protocol 2).", _wrap_json({})
            )
            | {"parameters": [_NAME]}
        },
        f"{model_v2}/ready": {
            "get": _add_unready(_describe_plain("Say whether a worker is ready.", _wrap_json({})))
            | {"parameters": [_NAME]}
        },
        f"{model_v2}/infer": {
            "post": {
                "summary": "Explain several images (KServe, protocol 2).",
                "parameters": [_NAME],
                "requestBody": {"required": True, "content": _wrap_json(_INFERENCE)},
                "responses": _describe_responses(_INFERRED),
            }
        },
        "/healthz": {"get": _describe_health("Say whether a worker is ready.", _TEXT)},
        "/metrics": {"get": _describe_plain("Counters for Prometheus.", _TEXT)},
    }
    for path, operations in paths.items():
        for method, operation in operations.items():
            words = path.replace("{", "").replace("}", "").replace(":", "/").strip("/")
            operation["operationId"] = f"{method}_{words.replace('/', '_')}"
            if locked and path not in OPEN_PATHS:
                operation["security"] = [{_BEARER: []}]
    schemes = {"securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": f"apercu: {name}", "version": "1"},
        "paths": _add_cases(paths) if has_cases else paths,
        "components": schemes if locked else {},
    }


def _add_cases(part: Any) -> Any:
    """Return a part of the document with similar cases among all options and in all answers."""
    if isinstance(part, list):
        return [_add_cases(each) for each in part]
    if not isinstance(part, dict):
        return part
    added = {"cases": _CASES} if "bands" in part else {"cases": _FOUND} if "read_by" in part else {}
    return {key: _add_cases(value) for key, value in part.items()} | added


def _describe_instances(summary: str) -> Schema:
    return {
        "summary": summary,
        "parameters": [_NAME],
        "requestBody": {"required": True, "content": _wrap_json(_MANY)},
        "responses": _describe_responses({"type": "object"}),
    }


def _describe_plain(summary: str, content: Schema) -> Schema:
    success = {"200": {"description": "Success.", "content": content}}
    return {"summary": summary, "responses": success | dict.fromkeys((*_ALWAYS, "404"), _REFUSED)}


def _describe_health(summary: str, content: Schema) -> Schema:
    operation = _add_unready(_describe_plain(summary, content))
    del operation["responses"]["401"]
    return operation


def _add_unready(operation: Schema) -> Schema:
    """Add the answer of a server without a ready worker, which looks like the one with one."""
    content = operation["responses"]["200"]["content"]
    operation["responses"]["503"] = {"description": "No worker is ready.", "content": content}
    return operation
