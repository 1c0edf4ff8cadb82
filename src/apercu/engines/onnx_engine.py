"""An exported mask explainer, run by ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.fingerprint import digest_of_file
from apercu.engines.engine import About, Answers, Engine
from apercu.errors import RunError
from apercu.export.graphs import TOP
from apercu.export.manifest import MANIFEST, InputFit, Manifest, read_manifest
from apercu.export.onnx_graph import answered, session
from apercu.types import Images

COMBINED = "combined"
"""The role of the graph that predicts, too."""


@final
@dataclass(frozen=True, eq=False)
class OnnxEngine(Engine):
    """A graph that predicts and explains at once, on the CPU.

    Attributes:
        running: a session of ONNX Runtime.
    """

    running: Any

    @classmethod
    def of(cls, folder: Path, *, spin: bool = True) -> OnnxEngine:
        """That of a folder that `apercu export` wrote.

        Args:
            folder: with the manifest.
            spin: whether threads wait awake for each other.

        Raises:
            RunError: the folder is damaged, holds no masks, or no graph that predicts.
            ConfigError: ONNX Runtime is not installed.
        """
        manifest = read_manifest(folder)
        path = _checked(folder, manifest)
        about = About(
            runtime="onnxruntime",
            run=manifest.files[COMBINED].sha256,
            classifier=manifest.classifier,
            fingerprint=manifest.fingerprint,
            read_by="classifier",
            precision=manifest.precision,
        )
        names = ClassNames(manifest.classes, manifest.identifiers)
        return cls(about, _input(manifest.input), names, session(path, spin=spin))

    def __call__(self, images: Images, target: int = TOP) -> Answers:
        asked = torch.full((len(images),), target)
        found = answered(self.running, images, asked)
        probabilities = found["probabilities"]
        targets = probabilities.argmax(1) if target == TOP else asked
        return Answers(found["maps"], targets, probabilities)


def _input(fit: InputFit) -> InputSpec:
    """What the graph's images look like; it normalises pixels itself."""
    counts = "l2_per_channel" if fit.range == "counts" else None
    return InputSpec(channels=fit.channels, size=fit.size, normalise=counts)


def _checked(folder: Path, manifest: Manifest) -> Path:
    """The graph that maps and predicts, once it is known to be the one that was exported."""
    if manifest.kind != "mask":
        raise RunError(f"{folder}: expected an export of masks, got one of {manifest.kind}s")
    if COMBINED not in manifest.files:
        raise RunError(
            f"{folder}: expected a graph that predicts, too, found no {COMBINED}.onnx; "
            "export again with --combined"
        )
    path = folder / manifest.files[COMBINED].file
    if not path.is_file() or digest_of_file(path) != manifest.files[COMBINED].sha256:
        raise RunError(f"{path}: missing, damaged, or not what {MANIFEST} tells of; export again")
    return path
