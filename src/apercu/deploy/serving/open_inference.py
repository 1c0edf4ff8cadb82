"""The second protocol of KServe (open inference protocol): bodies of `/v2` and their answers.

The one input `image` holds files in base64 (BYTES), and the one output `explanation` holds, for
each of them, the JSON that `/v1/explain` answers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import apercu
from apercu.classifiers import ClassNames
from apercu.deploy.serving.bodies import IMAGE
from apercu.deploy.serving.errors import BadRequestError
from apercu.deploy.serving.requests import (
    MAX_INSTANCES,
    ExplainRequest,
    begin_errors,
    name_places,
    parse_json_body,
    read_object,
)
from apercu.deploy.serving.responses import ExplainResponse

OUTPUT, BYTES = "explanation", "BYTES"
_INPUT = f"inputs: expected one input {IMAGE} of datatype {BYTES}, with 1 to {MAX_INSTANCES} files"


@dataclass(frozen=True)
class InferenceRequest:
    """A request of the second protocol.

    Args:
        images: the images to be explained.
        id: what the client calls the request; None if it does not.
    """

    images: Sequence[ExplainRequest]
    id: str | None = None


def describe_platform() -> dict[str, Any]:
    """Return the metadata of the server."""
    return {"name": "apercu", "version": apercu.__version__, "extensions": []}


def describe_tensors(name: str) -> dict[str, Any]:
    """Return the metadata of the model: its input and its output."""
    return {
        "name": name,
        "versions": [],
        "platform": "apercu",
        "inputs": [{"name": IMAGE, "datatype": BYTES, "shape": [-1]}],
        "outputs": [{"name": OUTPUT, "datatype": BYTES, "shape": [-1]}],
    }


def parse_inference(content_type: str, body: bytes, names: ClassNames) -> InferenceRequest:
    """Read the images of a request; `parameters` holds the options of `/v1/explain`.

    Args:
        content_type: header of the request.
        body: bytes of the request.
        names: names of the classes.

    Returns:
        The images, each with its options.

    Raises:
        UnsupportedMediaError: the body is no JSON.
        BadRequestError: the body is not well formed.
        InputError: an option or an image is wrong.
    """
    content = parse_json_body(content_type, body)
    inputs, parameters = content.get("inputs"), content.get("parameters", {})
    if not isinstance(inputs, list) or len(inputs) != 1 or not isinstance(inputs[0], dict):
        raise BadRequestError(_INPUT)
    data = inputs[0].get("data")
    if inputs[0].get("name") != IMAGE or inputs[0].get("datatype") != BYTES:
        raise BadRequestError(_INPUT)
    if isinstance(data, list) and all(isinstance(row, list) for row in data):
        data = [text for row in data for text in row]  # one row per file
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_INSTANCES:
        raise BadRequestError(_INPUT)
    if not isinstance(parameters, dict):
        raise BadRequestError("parameters: expected an object")
    images = []
    for place, text in name_places("data", data):
        with begin_errors(place):
            images.append(read_object({**parameters, IMAGE: text}, names))
    number = content.get("id")
    return InferenceRequest(images, number if isinstance(number, str) else None)


def write_inference(
    name: str, id: str | None, responses: Sequence[ExplainResponse]
) -> ExplainResponse:
    """Return the answer to a request.

    Args:
        name: name of the explainer.
        id: what the client calls the request.
        responses: one for each image, all successful.

    Returns:
        The answer, whose output holds one JSON text per image.
    """
    texts = [response.body.decode() for response in responses]
    output = {"name": OUTPUT, "datatype": BYTES, "shape": [len(texts)], "data": texts}
    content = {"model_name": name, "outputs": [output]} | ({} if id is None else {"id": id})
    return ExplainResponse(200, json.dumps(content).encode())
