"""An exported mask explainer, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from apercu.classifiers import ClassNames, InputSpec
from apercu.classifiers.names import TOP_INDEX
from apercu.deploy.export.manifest import MANIFEST, InputFormat, Manifest, read_manifest
from apercu.deploy.export.tracing import open_session, run_session
from apercu.deploy.inference.engine import ExplainedBatch, ExplainerInfo, InferenceEngine
from apercu.errors import RunError
from apercu.io import digest_file
from apercu.types import Images, Logits, Maps, Targets
from apercu.verdicts import TRUST, Trust, VerdictFormat

COMBINED, CLASSES = "combined", "classes"
GRAPH_ROLES = {
    COMBINED: "a graph that predicts, too",
    CLASSES: "a graph for many classes of an image",
}
"""The roles of the graphs that are run, and what they are."""


@final
@dataclass(frozen=True, eq=False)
class OnnxEngine(InferenceEngine):
    """A graph that predicts and explains at once, on the CPU, and a graph for further classes.

    Attributes:
        session: an ONNX Runtime session of the graph that predicts.
        open_classes_session: opens the session of the other graph when it is first needed; raises
            RunError if that graph is damaged.
        verdict_format: how the output `trust` of the graph is read; None without a guard.
    """

    session: Any
    open_classes_session: Callable[[], Any]
    verdict_format: VerdictFormat | None = None

    @classmethod
    def from_export(cls, folder: Path, *, spin: bool = True) -> OnnxEngine:
        """Open a folder that `apercu export` wrote.

        Args:
            folder: the folder with the manifest.
            spin: whether threads wait for each other without sleeping.

        Returns:
            The engine.

        Raises:
            RunError: the folder is damaged, or has no masks or no graph that predicts.
            MissingExtraError: ONNX Runtime is not installed.
        """
        manifest = read_manifest(folder)
        if manifest.kind != "mask":
            raise RunError(
                f"{folder}: expected an export of masks, got one of {manifest.kind}s; explain or "
                "serve its run folder, or open the export with apercu-runtime"
            )
        path = _find_graph(folder, manifest, COMBINED)
        info = ExplainerInfo(
            runtime="onnxruntime",
            run=manifest.files[COMBINED].sha256,
            classifier=manifest.classifier,
            fingerprint=manifest.fingerprint,
            read_by="classifier",
            precision=manifest.precision,
            guard=None if manifest.guard is None else manifest.files[COMBINED].sha256,
        )
        names = ClassNames(manifest.classes, manifest.identifiers)

        @cache
        def open_classes_session() -> Any:
            return open_session(_find_graph(folder, manifest, CLASSES), spin=spin)

        return cls(
            info,
            _build_input_spec(manifest.input),
            names,
            manifest.output,
            open_session(path, spin=spin),
            open_classes_session,
            manifest.guard,
        )

    def predict_logits(
        self, images: Images, targets: Targets | None = None
    ) -> tuple[Logits, list[Tensor]]:
        if targets is None:
            targets = torch.full((len(images),), TOP_INDEX)
        outputs = run_session(self.session, images, targets)
        explained = self._find_explained(outputs, targets)
        logits = self.output.decision.restore_logits(outputs["probabilities"])
        verdicts = [outputs[TRUST]] if self.verdict_format is not None else []
        return logits, [images, outputs["maps"], explained, *verdicts]

    def compute_masks(
        self, features: list[Tensor], targets: Int[Tensor, "batch classes"]
    ) -> Float[Tensor, "batch classes height width"]:
        images, maps, explained, *_ = features
        masks = maps[:, None].repeat(1, targets.shape[1], 1, 1)
        for image, rows, indices, explained_target in zip(
            images, masks, targets, explained, strict=True
        ):
            others = indices != explained_target
            if others.any():
                session = self.open_classes_session()
                rows[others] = run_session(session, image[None], indices[others])["maps"]
        return masks

    def judge(
        self, images: Images, logits: Logits, features: list[Tensor], masks: Maps | None = None
    ) -> list[Trust] | None:
        """Return what the verdicts among the features mean; see `InferenceEngine.judge`."""
        if self.verdict_format is None:
            return None
        return [self.verdict_format.read(row) for row in features[3].tolist()]

    def __call__(self, images: Images, target: int = TOP_INDEX) -> ExplainedBatch:
        targets = torch.full((len(images),), target)
        outputs = run_session(self.session, images, targets)
        trust = None
        if self.verdict_format is not None:
            trust = [self.verdict_format.read(row) for row in outputs[TRUST].tolist()]
        explained = self._find_explained(outputs, targets)
        return ExplainedBatch(outputs["maps"], explained, outputs["probabilities"], trust)

    def _find_explained(self, outputs: dict[str, Tensor], targets: Targets) -> Targets:
        """Return the class of each map; `TOP_INDEX` stands for the class predicted most."""
        return torch.where(targets == TOP_INDEX, outputs["probabilities"].argmax(1), targets)


def _build_input_spec(input_format: InputFormat) -> InputSpec:
    """Return the input of the graph; the graph normalises pixels itself."""
    counts = "l2_per_channel" if input_format.range == "counts" else None
    return InputSpec(
        channels=input_format.channels,
        size=input_format.size,
        normalise=counts,
        bands=input_format.bands,
    )


def _find_graph(folder: Path, manifest: Manifest, role: str) -> Path:
    """Return the path of a graph, once it was found to be the exported one."""
    if role not in manifest.files:
        raise RunError(
            f"{folder}: expected {GRAPH_ROLES[role]}, found no {role}.onnx; export again"
            + " with --combined" * (role == COMBINED)
        )
    path = folder / manifest.files[role].file
    if not path.is_file() or digest_file(path) != manifest.files[role].sha256:
        raise RunError(
            f"{path}: missing, damaged, or not the file that {MANIFEST} lists; export again"
        )
    return path
