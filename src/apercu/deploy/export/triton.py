"""A Triton model repository, and a KServe service that serves it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from apercu.deploy.export.manifest import GraphFile, Manifest
from apercu.io import write_file

REPOSITORY, SERVICE = "triton", "kserve.yaml"
MODEL_ROLES = ("explainer", "combined")
"""Graphs that take batches; each is a model of the repository."""
MAX_BATCH = 32
MAX_QUEUE_DELAY = 2000
"""Microseconds that a request waits for others that join its batch."""


def write_repository(manifest: Manifest, out: Path, *, service: bool) -> None:
    """Write `triton/MODEL/config.pbtxt` and `triton/MODEL/1/model.onnx`, and `kserve.yaml`.

    Args:
        manifest: the manifest of the graphs in `out`.
        out: the folder of the export.
        service: whether the KServe manifest is written.

    Raises:
        OutputError: the folder cannot be written.
    """
    for role in MODEL_ROLES:
        if role in manifest.files:
            graph, model = manifest.files[role], out / REPOSITORY / role
            write_file(model / "1" / "model.onnx", (out / graph.file).read_bytes())
            write_file(model / "config.pbtxt", format_model_config(role, graph, manifest))
    if service:
        write_file(out / SERVICE, format_service_manifest(out.resolve().name))


def format_model_config(name: str, graph: GraphFile, manifest: Manifest) -> str:
    """Return the `config.pbtxt` of one graph; the batch is Triton's own first axis."""
    images = (manifest.input.channels, *manifest.input.size)
    lines = [
        f'name: "{name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {MAX_BATCH}",
        "input [",
        _format_tensor("images", "TYPE_FP32", images) + ",",
        _format_tensor("targets", "TYPE_INT64", ()),
        "]",
        "output [",
        ",\n".join(_format_tensor(name, "TYPE_FP32", dims) for name, dims in graph.outputs.items()),
        "]",
        f"dynamic_batching {{ max_queue_delay_microseconds: {MAX_QUEUE_DELAY} }}",
    ]
    return "\n".join(lines) + "\n"


def _format_tensor(name: str, kind: str, dims: Sequence[int]) -> str:
    """Return the lines of one input or output; a number per image is sent as a list of one."""
    shape = ", ".join(map(str, dims)) or "1"
    reshape = "" if dims else " reshape { shape: [ ] }"
    return f'  {{ name: "{name}" data_type: {kind} dims: [ {shape} ]{reshape} }}'


def format_service_manifest(name: str) -> str:
    """Return an `InferenceService` that runs Triton on the repository.

    `storageUri` says where a cluster finds the folder `triton`; it is the one line to be set.
    """
    resources: Mapping[str, str] = {"cpu": "2", "memory": "2Gi"}
    content = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": make_service_name(name)},
        "spec": {
            "predictor": {
                "model": {
                    "modelFormat": {"name": "triton"},
                    "protocolVersion": "v2",
                    "storageUri": f"pvc://models/{make_service_name(name)}/{REPOSITORY}",
                    "resources": {"requests": dict(resources), "limits": dict(resources)},
                }
            }
        },
    }
    return yaml.safe_dump(content, sort_keys=False)


def make_service_name(name: str) -> str:
    """Return a name that Kubernetes accepts: lower case, digits and dashes, at most 63 characters.

    >>> make_service_name("Mobile_Net v2.")
    'mobile-net-v2'
    """
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "apercu"
