"""`explainer.json`: what a runtime must know about an export, and how it was checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

import apercu
from apercu.classifiers import InputSpec
from apercu.classifiers.outputs import SOFTMAX, Output
from apercu.deploy.export.settings import Precision
from apercu.deploy.export.tracing import Traceable
from apercu.errors import RunError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.run_folder import EXPORT, digest_run
from apercu.io import digest_file
from apercu.verdicts import VerdictFormat

MANIFEST = EXPORT
VERSION: Final = 1
"""Version of the manifest; a runtime refuses others."""


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
    """One metric of the exact and of the exported graph.

    Attributes:
        exact: the mean of the float32 graph.
        exported: the mean of the exported graph.
        n: the number of images.
    """

    exact: float
    exported: float
    n: int


class PrecisionLoss(_ManifestModel):
    """What a lower precision changes.

    Attributes:
        images: the images that it was measured on.
        n: the number of images behind the first three numbers.
        mean_difference: the mean absolute difference of the maps of the class predicted most.
        iou: the mean overlap of the regions at level 0.5; 1 where both are empty.
        agreement: the fraction of images whose predicted class stays, of a graph that predicts.
        scores: the metrics of both graphs, by name; of the explainer alone.
    """

    images: str
    n: int
    mean_difference: float
    iou: float
    agreement: float | None = None
    scores: dict[str, ScorePair] = {}


class GraphFile(_ManifestModel):
    """One exported file, as the manifest lists it.

    Attributes:
        file: the name of the file, relative to the manifest.
        sha256: the digest of its bytes.
        precision: the precision of its numbers.
        outputs: the names and shapes of its outputs, without the batch.
        difference: the largest difference from PyTorch, of the float32 graph it was made from.
        images: the number of images of that check.
        jumps: the number of pixels left out of that check, see `GraphCheck`.
        loss: what a lower precision changes.
    """

    file: str = Field(pattern=r"^[^/\\]*[^/\\.][^/\\]*$")
    sha256: str
    precision: Precision
    outputs: dict[str, tuple[int, ...]]
    difference: float
    images: int
    jumps: int = 0
    loss: PrecisionLoss | None = None


class InputFormat(_ManifestModel):
    """How a picture becomes an input of the graphs.

    Attributes:
        channels: the number of channels.
        size: the height and width.
        fit: how it is resized: whole and squashed, bilinear with antialiasing.
        range: `unit` for values in [0, 1]; `counts` for any finite values.
        bands: the names of the channels, where they have any.
    """

    channels: int
    size: tuple[int, int]
    fit: Literal["squash"] = "squash"
    range: Literal["unit", "counts"] = "unit"
    bands: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _check_numbers(self) -> InputFormat:
        """Raise ValueError for a size or bands that no classifier has."""
        InputSpec(channels=self.channels, size=self.size, bands=self.bands)
        return self


class Manifest(_ManifestModel):
    """The content of `explainer.json`.

    Attributes:
        version: the version of this format.
        apercu: the version of apercu that wrote it.
        kind: the kind of the explainer.
        classifier: the SPEC of the explained classifier.
        fingerprint: the fingerprint of that classifier.
        run: a SHA-256 of the explainer's trained weights and settings.
        input: how a picture becomes an input.
        classes: the names of the classes.
        identifiers: WordNet or other identifiers; the names where there are no others.
        output: what the numbers of the classifier mean; left out where the probabilities are a
            softmax over classes.
        precision: the precision of the graphs.
        files: the files by role: `explainer`, `combined`, `classes`, `program`.
        guard: how the output `trust` of the combined graph is read; left out without a guard.
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
    output: Output = SOFTMAX
    precision: Precision
    files: dict[str, GraphFile]
    guard: VerdictFormat | None = None

    @model_validator(mode="after")
    def _check_names(self) -> Manifest:
        """Raise ValueError unless every class has an identifier."""
        if len(self.classes) != len(self.identifiers):
            raise ValueError("expected as many identifiers as classes")
        return self

    @model_serializer(mode="wrap")
    def _leave_out_defaults(self, serialise: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        """Write no output and no guard where there is none, as older runtimes expect it."""
        content: dict[str, Any] = serialise(self)
        if self.guard is None:
            del content["guard"]
        if self.output.is_softmax:
            del content["output"]
        return content


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of an export.

    Args:
        folder: folder that `export` wrote.

    Returns:
        The manifest.

    Raises:
        RunError: it is missing or damaged.
    """
    path = Path(folder) / MANIFEST
    try:
        return Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{folder}: expected an export, found no {MANIFEST}") from None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: damaged; export the run again") from error


def describe_graph(
    path: Path, graph: Traceable, check: GraphCheck, precision: Precision
) -> GraphFile:
    """Return the entry of a file in the manifest."""
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
    explainer: TrainedExplainer[Any, Any],
    precision: Precision,
    files: dict[str, GraphFile],
    guard: VerdictFormat | None = None,
) -> Manifest:
    """Return the manifest of an explainer's files, and of how its guard's verdicts are read."""
    info, spec = explainer.classifier_info, explainer.classifier_info.input
    values = "counts" if spec.normalise else "unit"
    return Manifest(
        apercu=apercu.__version__,
        kind=explainer.settings.explainer,
        classifier=info.spec,
        fingerprint=info.fingerprint,
        run=digest_run(explainer),
        input=InputFormat(channels=spec.channels, size=spec.size, range=values, bands=spec.bands),
        classes=info.classes,
        identifiers=info.identifiers,
        output=info.output,
        precision=precision,
        files=files,
        guard=guard,
    )


def describe_difference(name: str, check: GraphCheck) -> str:
    """Return the line that says how far a file is from PyTorch."""
    jumps = f", {check.jumps} pixels on a jump left out" * bool(check.jumps)
    return f"{name}: at most {check.difference:.2g} from PyTorch on {check.images} images{jumps}"


def describe_loss(name: str, precision: Precision, loss: PrecisionLoss) -> list[str]:
    """Return the lines that say what a lower precision changes."""
    agreement = "" if loss.agreement is None else f", {loss.agreement:.1%} keep their class"
    return [
        f"{name}: {precision} against fp32 on {loss.n} images: maps differ by "
        f"{loss.mean_difference:.4f} on average, regions overlap by {loss.iou:.3f}{agreement}",
        *(
            f"{metric}: {score.exact:.3f} fp32, {score.exported:.3f} exported"
            for metric, score in loss.scores.items()
        ),
    ]
