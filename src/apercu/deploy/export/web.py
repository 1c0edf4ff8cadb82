"""A folder of files that explains in the browser: the page, the graph, ONNX Runtime, examples."""

from __future__ import annotations

import base64
import gzip
import hashlib
import importlib.resources
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from apercu import render
from apercu.classifiers.names import TOP_INDEX
from apercu.classifiers.preprocessing import prepare_image
from apercu.deploy.export.manifest import MANIFEST, Manifest
from apercu.deploy.export.page import DIGITS, FEW_CLASSES, PAGE_FOLDER, PageSubject, list_examples
from apercu.deploy.export.tracing import GraphFn
from apercu.deploy.export.web_runtime import WebRuntime
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.images import read_picture
from apercu.io import write_file, write_json

SOURCE = "source.js"
"""The script of the page that says who explains."""
SOURCE_HERE = b'// Who explains: a worker in this browser.\n\nexport * from "./local.js";\n'
AT_THE_TOP = ("index.html", "favicon.svg", "isolate.js")
"""Files of the page that lie in the folder itself; the others lie in `page`."""
LICENCES = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
"""Files of the Python package of ONNX Runtime, and their names beside the files for browsers."""
GRAPH = "combined.onnx.gz"
LISTED = 6
"""Classes of an example that have a map, where a classifier has more than `FEW_CLASSES`."""


def check_subject(explainer: TrainedExplainer[Any, Any], precision: str) -> None:
    """Check that a page can explain by itself, before any work.

    Raises:
        ConfigError: the explainer makes no masks, takes raw counts or other channels than grey
            and colour, or the precision is not fp32.
    """
    spec = explainer.classifier_info.input
    if explainer.kind != MaskExplainer.kind:
        raise ConfigError(
            f"format: web shows masks, this is a {explainer.kind} explainer; serve it with "
            "`apercu serve`"
        )
    if spec.takes_raw_counts or spec.channels not in (1, 3):
        raise ConfigError(
            "format: web reads grey and colour pictures, and this classifier takes "
            f"{spec.channels} channels of others; serve it with `apercu serve`"
        )
    if precision != "fp32":
        raise ConfigError(f"precision: web computes in fp32, got {precision}; leave it out")


def write_site(
    out: Path,
    subject: PageSubject,
    manifest: Manifest,
    graph: bytes,
    runtime: WebRuntime,
    run: GraphFn,
) -> Manifest:
    """Write a folder that any static server can send, and that explains in the browser.

    Args:
        out: the folder.
        subject: the explainer.
        manifest: what is written to `explainer.json`; the file names become those in the folder.
        graph: `combined.onnx`.
        runtime: ONNX Runtime for browsers.
        run: computes the outputs of the graph; the examples are explained with it, so that the
            page displays explanations before anything large is downloaded.

    Returns:
        The manifest, as it is written.

    Raises:
        OutputError: the folder cannot be written.
    """
    for path in sorted(PAGE_FOLDER.iterdir()):
        name = path.name if path.name in AT_THE_TOP else f"page/{path.name}"
        content = SOURCE_HERE if path.name == SOURCE else path.read_bytes()
        write_file(out / name, content)
    examples = _write_examples(out, subject, run)
    files = {"graph": _write_packed(out, GRAPH, graph), **_write_runtime(out, runtime)}
    write_json(
        out / "page.json",
        subject.describe()
        | {
            "channels": subject.input.channels,
            "size": list(subject.input.size),
            "value_range": subject.output.value_range,
            "examples": len(examples),
            "example_files": examples,
            "example_maps": [f"{name}.json" for name in examples],
            "files": files,
            "runtime": {"module": "../runtime/ort.js", "threads": "../runtime/ort-threads.js"},
        },
    )
    packed = hashlib.sha256((out / GRAPH).read_bytes()).hexdigest()
    entry = manifest.files["combined"].model_copy(update={"file": GRAPH, "sha256": packed})
    manifest = manifest.model_copy(update={"files": {"combined": entry}})
    write_file(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _write_examples(out: Path, subject: PageSubject, run: GraphFn) -> list[str]:
    """Write the example pictures with their explanations, and return the names of the pictures."""
    examples = list_examples(subject.input, subject.names)
    for name, content in examples:
        write_file(out / "examples" / name, content)
        record = json.dumps(describe_example(content, subject, run))
        write_file(out / "examples" / f"{name}.json", record)
    return [name for name, _ in examples]


def _write_runtime(out: Path, runtime: WebRuntime) -> dict[str, dict[str, Any]]:
    """Write ONNX Runtime for browsers and its licences, and return what the page must know."""
    files = {}
    for name, content in runtime.files.items():
        if name.endswith(".wasm"):
            files["wasm"] = _write_packed(out, f"runtime/{name}.gz", content)
        else:
            write_file(out / "runtime" / name, content)
    for name, file in LICENCES.items():
        content = importlib.resources.files("onnxruntime").joinpath(name).read_bytes()
        write_file(out / "runtime" / file, content)
    return files


def describe_example(content: bytes, subject: PageSubject, run: GraphFn) -> dict[str, Any]:
    """Explain an example: its probabilities, and a map for each class that the page lists first.

    Args:
        content: bytes of the picture.
        subject: the explainer.
        run: computes the outputs of its graph.

    Returns:
        The size of the picture, the probabilities, and grey PNG files in base64 by class index.
    """
    picture = read_picture(content, channels=subject.input.channels)
    image = prepare_image(picture, subject.input)[None]
    probabilities = run(image, torch.tensor([TOP_INDEX]))["probabilities"][0]
    count = len(probabilities)
    targets = probabilities.topk(count if count <= FEW_CLASSES else LISTED).indices
    maps = run(image.repeat(len(targets), 1, 1, 1), targets)["maps"]
    grey = (255 * maps.clamp(0, 1)).round().byte().numpy()
    files = [render.encode_image(Image.fromarray(values), fast=True) for values in grey]
    height, width = picture.shape[1:]
    return {
        "size": {"width": width, "height": height},
        "probabilities": [round(value, DIGITS) for value in probabilities.tolist()],
        "maps": {
            index: base64.b64encode(file).decode()
            for index, file in zip(targets.tolist(), files, strict=True)
        },
    }


def _write_packed(out: Path, name: str, content: bytes) -> dict[str, Any]:
    """Write a file as gzip, and return what the page must know of it."""
    packed = gzip.compress(content, 6, mtime=0)
    write_file(out / name, packed)
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "bytes": len(packed), "sha256": digest}
