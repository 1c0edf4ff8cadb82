"""What the manifest tells of an explainer and of each of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import apercu
from apercu.classifiers.fingerprint import digest_file
from apercu.deploy.export.check import GraphCheck
from apercu.deploy.export.manifest import GraphFile, InputFit, Loss, Manifest
from apercu.deploy.export.onnx_graph import Traceable
from apercu.deploy.export.settings import Precision
from apercu.explainers.base import TrainedExplainer


def describe_graph(
    path: Path, graph: Traceable, checked: GraphCheck, precision: Precision
) -> GraphFile:
    """An entry of the manifest."""
    shapes = {name: tuple(values.shape[1:]) for name, values in graph(*graph.inputs).items()}
    return GraphFile(
        file=path.name,
        sha256=digest_file(path),
        precision=precision,
        outputs=shapes,
        difference=checked.difference,
        images=checked.images,
        jumps=checked.jumps,
    )


def build_manifest(
    explainer: TrainedExplainer[Any, Any], precision: Precision, files: dict[str, GraphFile]
) -> Manifest:
    """The manifest of an explainer's files."""
    passport, spec = explainer.classifier_info, explainer.classifier_info.input
    values = "counts" if spec.normalise else "unit"
    return Manifest(
        apercu=apercu.__version__,
        kind=explainer.settings.explainer,
        classifier=passport.spec,
        fingerprint=passport.fingerprint,
        run=digest_run(explainer),
        input=InputFit(channels=spec.channels, size=spec.size, range=values, bands=spec.bands),
        classes=passport.classes,
        identifiers=passport.identifiers,
        precision=precision,
        files=files,
    )


def digest_run(explainer: TrainedExplainer[Any, Any]) -> str:
    """SHA-256 over what was trained and how."""
    sha = hashlib.sha256(explainer.settings.model_dump_json().encode())
    for name, weights in sorted(explainer.network.state_dict().items()):
        sha.update(name.encode() + weights.contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()


def describe_difference(name: str, checked: GraphCheck) -> str:
    """The line that says how far a file is from PyTorch."""
    jumps = f", {checked.jumps} pixels on a jump left out" * bool(checked.jumps)
    return (
        f"{name}: at most {checked.difference:.2g} from PyTorch on {checked.images} images{jumps}"
    )


def describe_loss(name: str, precision: Precision, loss: Loss) -> list[str]:
    """The lines that say what a lower precision costs."""
    agreement = "" if loss.agreement is None else f", {loss.agreement:.1%} keep their class"
    return [
        f"{name}: {precision} against fp32 on {loss.n} images: maps differ by "
        f"{loss.mean_difference:.4f} on average, regions overlap by {loss.iou:.3f}{agreement}",
        *(
            f"{metric}: {score.exact:.3f} fp32, {score.exported:.3f} exported"
            for metric, score in loss.scores.items()
        ),
    ]
