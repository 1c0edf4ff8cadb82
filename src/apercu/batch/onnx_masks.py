"""An exported mask explainer, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import final

import torch

from apercu.batch.explaining import About, Answers, Explaining
from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.fingerprint import digest_of_file
from apercu.errors import RunError
from apercu.explain.asked import TOP
from apercu.export.manifest import Manifest, read_manifest
from apercu.export.onnx_graph import answered, session
from apercu.types import Images

GRAPH = "combined"
"""The role of the graph that predicts as well: every row tells a class and its probability."""
MOST = -1
"""What a graph takes for the class seen most."""


@final
class OnnxMasks(Explaining):
    """Masks of one class, or of the class that is seen most in each image.

    Args:
        folder: that `apercu export` wrote.
        target: `top`, or a class by name, identifier or index.

    Raises:
        RunError: the folder is damaged, or its graph does not predict.
        TargetError: there is no such class.
        ConfigError: ONNX Runtime is not installed.
    """

    def __init__(self, folder: Path, target: str) -> None:
        manifest = read_manifest(folder)
        path = _checked(folder, manifest)
        names = ClassNames(manifest.classes, manifest.identifiers)
        self.fixed = MOST if target == TOP else names.index_of(target)
        self.session = session(path)
        about = About(
            runtime="onnxruntime",
            run=manifest.files[GRAPH].sha256,
            classifier=manifest.classifier,
            fingerprint=manifest.fingerprint,
            read_by="classifier",
            precision=manifest.precision,
        )
        counts = "l2_per_channel" if manifest.input.range == "counts" else None
        spec = InputSpec(
            channels=manifest.input.channels, size=manifest.input.size, normalise=counts
        )
        super().__init__(about, spec, manifest.classes)

    def __call__(self, images: Images) -> Answers:
        asked = torch.full((len(images),), self.fixed)
        found = answered(self.session, images, asked)
        targets = found["probabilities"].argmax(1) if self.fixed == MOST else asked
        shares = found["probabilities"].gather(1, targets[:, None])[:, 0]
        return Answers(found["maps"], targets, shares)


def _checked(folder: Path, manifest: Manifest) -> Path:
    """The graph that maps and predicts, once it is known to be the one that was exported."""
    if manifest.kind != "mask":
        raise RunError(f"{folder}: expected an exported mask explainer, got a {manifest.kind} one")
    if GRAPH not in manifest.files:
        raise RunError(
            f"{folder}: its graphs do not predict, so no row could tell a probability; export "
            "again with --combined"
        )
    path = folder / manifest.files[GRAPH].file
    if not path.is_file() or digest_of_file(path) != manifest.files[GRAPH].sha256:
        raise RunError(f"{path}: missing, damaged, or another graph; export again")
    return path
