"""The page of an explainer: what it knows, its examples, and a folder that explains by itself."""

from __future__ import annotations

import gzip
import hashlib
import importlib.resources
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apercu import render
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.outputs import Output
from apercu.deploy.export.manifest import MANIFEST, Manifest
from apercu.deploy.export.web_runtime import WebRuntime
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.mask.explainer import MaskExplainer
from apercu.explainers.ready import has_imagenet_classes, list_photographs
from apercu.images.planted import Planted
from apercu.io import write_file, write_json

PAGE_FOLDER = Path(__file__).parents[1] / "serving" / "web"
"""The scripts and styles of the page, which a server sends and an exported folder holds."""
SOURCE = "source.js"
"""The script of the page that says who explains."""
SOURCE_HERE = b'// Who explains: a worker in this browser.\n\nexport * from "./local.js";\n'
AT_THE_TOP = ("index.html", "favicon.svg", "isolate.js")
"""Files of the page that lie in the folder itself; the others lie in `page`."""
EXAMPLES, MAX_EXAMPLE, MIN_EXAMPLE = 6, 224, 64
"""Planted images on the page; pixels of their sides."""
LICENCES = {"LICENSE": "LICENSE.txt", "ThirdPartyNotices.txt": "ThirdPartyNotices.txt"}
"""Files of the Python package of ONNX Runtime, and their names beside the files for browsers."""
GRAPH = "combined.onnx.gz"


@dataclass(frozen=True)
class PageSubject:
    """The explainer that a page shows.

    Args:
        name: what the page calls it, such as the name of its run folder.
        kind: `mask`, `counterpart`, `latent`.
        classifier: SPEC of the explained classifier.
        names: names of the classes.
        input: what the classifier's images look like.
        output: what the numbers of the classifier mean.
    """

    name: str
    kind: str
    classifier: str
    names: ClassNames
    input: InputSpec
    output: Output

    def describe(self) -> dict[str, Any]:
        """Return what the page needs to know, as JSON can hold it."""
        height, width = self.input.size
        return {
            "name": self.name,
            "explainer": self.kind,
            "classifier": self.classifier,
            "map_size": {"width": width, "height": height},
            "classes": list(self.names.names),
            "output": "softmax" if self.output.is_plain else self.output.name,
            "several": self.output.decision.is_multiple,
            "heat": list(render.HEAT_COLOURS),
        }


def list_examples(spec: InputSpec, names: ClassNames) -> list[tuple[str, bytes]]:
    """Return pictures for the page: photographs for the classes of ImageNet, else planted images.

    Args:
        spec: what the images of the classifier look like.
        names: names of its classes.

    Returns:
        Names and bytes of JPEG or PNG files; none for classifiers of other channels than grey or
        colour.
    """
    if spec.channels == 3 and has_imagenet_classes(names):
        return [(path.name, path.read_bytes()) for path in list_photographs()]
    if spec.channels not in (1, 3) or spec.takes_raw_counts:
        return []
    side = min(max(*spec.size, MIN_EXAMPLE), MAX_EXAMPLE)
    planted = Planted(images=EXAMPLES, size=side, objects=2, split="test", channels=spec.channels)
    return [
        (f"{number}.png", render.encode_image(render.to_image(planted[number].picture)))
        for number in range(EXAMPLES)
    ]


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
    out: Path, subject: PageSubject, manifest: Manifest, graph: bytes, runtime: WebRuntime
) -> Manifest:
    """Write a folder that any static server can send, and that explains in the browser.

    Args:
        out: the folder.
        subject: the explainer.
        manifest: what is written to `explainer.json`; the file names become those in the folder.
        graph: `combined.onnx`.
        runtime: ONNX Runtime for browsers.

    Returns:
        The manifest, as it is written.

    Raises:
        OutputError: the folder cannot be written.
    """
    for path in sorted(PAGE_FOLDER.iterdir()):
        name = path.name if path.name in AT_THE_TOP else f"page/{path.name}"
        content = SOURCE_HERE if path.name == SOURCE else path.read_bytes()
        write_file(out / name, content)
    examples = list_examples(subject.input, subject.names)
    for name, content in examples:
        write_file(out / "examples" / name, content)
    files = {"graph": _write_packed(out, GRAPH, graph)}
    for name, content in runtime.files.items():
        if name.endswith(".wasm"):
            files["wasm"] = _write_packed(out, f"runtime/{name}.gz", content)
        else:
            write_file(out / "runtime" / name, content)
    for name, here in LICENCES.items():
        content = importlib.resources.files("onnxruntime").joinpath(name).read_bytes()
        write_file(out / "runtime" / here, content)
    write_json(
        out / "page.json",
        subject.describe()
        | {
            "channels": subject.input.channels,
            "size": list(subject.input.size),
            "value_range": subject.output.value_range,
            "examples": len(examples),
            "example_files": [name for name, _ in examples],
            "files": files,
            "runtime": {"module": "../runtime/ort.js", "threads": "../runtime/ort-threads.js"},
        },
    )
    packed = hashlib.sha256((out / GRAPH).read_bytes()).hexdigest()
    entry = manifest.files["combined"].model_copy(update={"file": GRAPH, "sha256": packed})
    manifest = manifest.model_copy(update={"files": {"combined": entry}})
    write_file(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    return manifest


def _write_packed(out: Path, name: str, content: bytes) -> dict[str, Any]:
    """Write a file as gzip, and return what the page must know of it."""
    packed = gzip.compress(content, 6, mtime=0)
    write_file(out / name, packed)
    digest = hashlib.sha256(content).hexdigest()
    return {"name": name, "bytes": len(packed), "sha256": digest}
