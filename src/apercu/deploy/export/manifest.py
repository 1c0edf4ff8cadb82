"""`explainer.json`: what a runtime must know of the graphs beside it, and how they were checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

import apercu
from apercu.classifiers.fingerprint import digest_file
from apercu.deploy.export.settings import Precision
from apercu.deploy.export.tracing import Traceable
from apercu.errors import RunError
from apercu.explainers.base import TrainedExplainer

MANIFEST = "explainer.json"
VERSION: Final = 1
"""Of the manifest; a runtime refuses others."""


class _ManifestModel(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class GraphCheck:
    """How far the outputs of an exported graph are from those of PyTorch.

    Attributes:
        difference: the largest absolute difference of any number in its outputs.
        images: the number of images that the graph was checked on.
        jumps: the number of pixels left out, since PyTorch's own map jumps there when the image
            moves by `JUMP_NOISE`.
    """

    difference: float
    images: int
    jumps: int = 0


class ScorePair(_ManifestModel):
    """One metric of the yardstick, of the exact and of the exported explainer.

    Attributes:
        exact: the float32 graph's mean.
        exported: the exported one's.
        n: images.
    """

    exact: float
    exported: float
    n: int


class PrecisionLoss(_ManifestModel):
    """What a lower precision costs.

    Attributes:
        images: what it was measured on.
        n: how many images the first three are of.
        mean_difference: mean absolute difference of the maps of the class seen most.
        iou: of the regions at level 0.5; 1 where both are empty.
        agreement: share of images whose class seen most stays, of a graph that predicts.
        scores: of the yardstick, by metric; of the explainer alone.
    """

    images: str
    n: int
    mean_difference: float
    iou: float
    agreement: float | None = None
    scores: dict[str, ScorePair] = {}


class GraphFile(_ManifestModel):
    """One exported file.

    Attributes:
        file: its name, relative to the manifest.
        sha256: of its bytes.
        precision: of its numbers.
        outputs: names and shapes of what it answers, without the batch.
        difference: the largest one from PyTorch, of the float32 graph that it was made from.
        images: how many that was checked on.
        jumps: numbers left out of that check, see `apercu.deploy.export.checks`.
        loss: of a lower precision.
    """

    file: str
    sha256: str
    precision: Precision
    outputs: dict[str, tuple[int, ...]]
    difference: float
    images: int
    jumps: int = 0
    loss: PrecisionLoss | None = None


class InputFormat(_ManifestModel):
    """How a picture becomes an input.

    Attributes:
        channels: of the images.
        size: height and width.
        fit: whole and squashed, bilinear with antialiasing.
        range: `unit`, values in [0, 1]; or `counts`, any finite ones.
        bands: names of the channels, where they have any.
    """

    channels: int
    size: tuple[int, int]
    fit: Literal["squash"] = "squash"
    range: Literal["unit", "counts"] = "unit"
    bands: tuple[str, ...] | None = None


class Manifest(_ManifestModel):
    """All of it.

    Attributes:
        version: of this format.
        apercu: version that wrote it.
        kind: of the explainer.
        classifier: how the explained one was named.
        fingerprint: of that classifier.
        run: SHA-256 of the explainer's trained weights and settings.
        input: how a picture becomes an input.
        classes: readable names.
        identifiers: WordNet or other identifiers; the names where there are no others.
        precision: of the graphs.
        files: by role: `explainer`, `combined`, `classes`, `program`.
    """

    version: Literal[1] = VERSION
    apercu: str
    kind: Literal["mask", "counterpart"]
    classifier: str
    fingerprint: str
    run: str
    input: InputFormat
    classes: tuple[str, ...]
    identifiers: tuple[str, ...]
    precision: Precision
    files: dict[str, GraphFile]


def read_manifest(folder: Path) -> Manifest:
    """The manifest of an export.

    Raises:
        RunError: there is none, or it is damaged.
    """
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder}: expected an export, found no {MANIFEST}") from None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: damaged; export the run again") from error


def describe_graph(
    path: Path, graph: Traceable, check: GraphCheck, precision: Precision
) -> GraphFile:
    """An entry of the manifest."""
    shapes = {name: tuple(values.shape[1:]) for name, values in graph(*graph.inputs).items()}
    return GraphFile(
        file=path.name,
        sha256=digest_file(path),
        precision=precision,
        outputs=shapes,
        difference=check.difference,
        images=check.images,
        jumps=check.jumps,
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
        input=InputFormat(channels=spec.channels, size=spec.size, range=values, bands=spec.bands),
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


def describe_difference(name: str, check: GraphCheck) -> str:
    """The line that says how far a file is from PyTorch."""
    jumps = f", {check.jumps} pixels on a jump left out" * bool(check.jumps)
    return f"{name}: at most {check.difference:.2g} from PyTorch on {check.images} images{jumps}"


def describe_loss(name: str, precision: Precision, loss: PrecisionLoss) -> list[str]:
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
