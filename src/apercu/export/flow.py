"""From a run to a folder of graphs: traced, checked, converted, measured; the manifest last."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import apercu
from apercu.classifiers.fingerprint import digest_of_file
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.export.check import Answering, Checked, check, class_trials, trials
from apercu.export.graphs import ClassesGraph, CombinedGraph, Explaining, MaskGraph, graph_of
from apercu.export.loss import measured_loss, yardstick
from apercu.export.manifest import MANIFEST, GraphFile, InputFit, Loss, Manifest
from apercu.export.materials import Materials, Shown
from apercu.export.onnx_graph import Traceable, answered, session, write_onnx
from apercu.export.precision import converted
from apercu.export.program import open_program, write_program
from apercu.export.reading import explained_classifier, reading
from apercu.export.settings import ExportSettings, Precision
from apercu.export.triton import write_repository
from apercu.output import check_writable, write

CALIBRATED = 64
"""Images that the ranges of activations are learnt from, at most."""

Say = Callable[[str], None]


def export(
    explainer: TrainedExplainer[Any, Any],
    out: Path,
    settings: ExportSettings,
    materials: Materials | None = None,
    say: Say = lambda line: None,
) -> Manifest:
    """Writes an explainer as files that run without this package.

    Raises:
        ConfigError: the explainer is no graph, or something that is needed was not given.
        RunError: the classifier is not the explained one.
        ApercuError: a file answers otherwise than PyTorch.
        OutputError: the folder cannot be written.
    """
    job = Export(explainer.to("cpu"), settings, materials or Materials(), say)
    check_writable(out)
    with tempfile.TemporaryDirectory() as exact:
        return job(out, Path(exact))


class Export:
    """An export under way.

    Args:
        explainer: on the CPU.
        settings: what is asked for.
        materials: what may be used.
        say: told every figure.

    Raises:
        ConfigError: something that is needed was not given.
    """

    def __init__(
        self,
        explainer: TrainedExplainer[Any, Any],
        settings: ExportSettings,
        materials: Materials,
        say: Say,
    ) -> None:
        self.explainer, self.passport = explainer, explainer.passport
        self.settings, self.materials, self.say = settings, materials, say
        if self.passport.input.stretch is not None:
            raise ConfigError(
                "export: its classifier stretches raw counts, which the runtime cannot do; "
                "explain them with PyTorch"
            )
        if settings.precision != "fp32" and materials.images is None:
            raise ConfigError(
                f"precision: what {settings.precision} loses is measured; give --images"
            )
        if settings.precision == "int8-static" and materials.calibration is None:
            raise ConfigError(
                "precision: int8-static learns the ranges of activations from images; "
                "give --calibrate"
            )
        self.graphs = dict(self._graphs(graph_of(explainer)))

    def __call__(self, out: Path, exact: Path) -> Manifest:
        """All files; those of single precision that others are made from go to a folder apart."""
        files = {}
        for role, graph in self.graphs.items():
            path = write_onnx(graph, exact / f"{role}.onnx")
            running = partial(answered, session(path))
            checked = self._checked(f"{role}.onnx", running, graph)
            made = self._converted(path, out / path.name, graph)
            files[role] = described(made, graph, checked, self.settings.precision)
        if "torch" in self.settings.formats:
            files["program"] = self._program(out / "explainer.pt2")
        loss = self._loss(exact / "explainer.onnx", out / "explainer.onnx")
        manifest = self._manifest(files, loss)
        if self.settings.triton:
            write_repository(manifest, out, service="kserve" in self.settings.formats)
        write(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        return manifest

    def _graphs(self, explaining: Explaining) -> Iterator[tuple[str, Traceable]]:
        spec = self.passport.input
        yield "explainer", Traceable.of(explaining, explaining.outputs, spec)
        if isinstance(explaining, MaskGraph):
            classes = ClassesGraph(explaining.network)
            yield "classes", Traceable.of_classes(classes, classes.outputs, spec)
        if self.settings.combined is False:
            return
        network = self.explainer.network
        try:
            read = reading(network, self.passport, self.materials.classifier)
        except ConfigError as error:
            if self.settings.combined:
                raise
            self.say(f"no combined graph: {error}")
            return
        combined = CombinedGraph(explaining, read)
        yield "combined", Traceable.of(combined, combined.outputs, spec)

    def _checked(self, name: str, answering: Answering, graph: Traceable) -> Checked:
        """Compares with PyTorch, and tells the figure."""
        shown = self._shown(self.materials.images)
        real = None if shown is None else next(shown.batches(self.passport))
        classes = len(self.passport.classes)
        asked = trials(graph.inputs[0].shape[1:], classes, real)
        if graph.singly:
            asked = class_trials(asked, classes)
        checked = check(answering, graph, asked)
        jumps = f", {checked.jumps} pixels on a jump left out" * bool(checked.jumps)
        self.say(
            f"{name}: at most {checked.difference:.2g} from PyTorch on {checked.images} "
            f"images{jumps}"
        )
        return checked

    def _converted(self, exact: Path, path: Path, graph: Traceable) -> Path:
        shown = self._calibration
        if graph.singly:
            shown = [image for images in shown for image in torch.split(images, 1)]
        return converted(exact, self.settings.precision, path, shown)

    @cached_property
    def _calibration(self) -> list[Tensor]:
        calibration = self._shown(self.materials.calibration, CALIBRATED)
        if calibration is None or self.settings.precision != "int8-static":
            return []
        return list(calibration.batches(self.passport))

    def _program(self, path: Path) -> GraphFile:
        graph = self.graphs["explainer"]
        write_program(graph, path)
        checked = self._checked(path.name, open_program(path, graph.outputs), graph)
        return described(path, graph, checked, "fp32")

    def _loss(self, exact: Path, exported: Path) -> Loss | None:
        shown = self._shown(self.materials.images)
        if self.settings.precision == "fp32" or shown is None:
            return None
        loss = measured_loss(exact, exported, shown, self.passport)
        self.say(
            f"{self.settings.precision} against fp32 on {loss.n} images: maps differ by "
            f"{loss.mean_difference:.4f} on average, regions overlap by {loss.iou:.3f}"
        )
        classifier = self.materials.classifier or explained_classifier(
            self.explainer.network, self.passport
        )
        if classifier is None:
            self.say("yardstick not measured: it asks the classifier; give --classifier")
            return loss
        scores = yardstick(classifier, shown, exact, exported)
        for metric, score in scores.items():
            self.say(f"{metric}: {score.exact:.3f} fp32, {score.exported:.3f} exported")
        return loss.model_copy(update={"scores": scores})

    def _shown(self, source: Any, limit: int | None = None) -> Shown | None:
        if source is None:
            return None
        return Shown(source, limit or self.settings.limit, self.settings.seed)

    def _manifest(self, files: dict[str, GraphFile], loss: Loss | None) -> Manifest:
        passport = self.passport
        spec = passport.input
        return Manifest(
            apercu=apercu.__version__,
            kind=self.explainer.settings.explainer,
            classifier=passport.spec,
            fingerprint=passport.fingerprint,
            run=digest_of_run(self.explainer),
            input=InputFit(
                channels=spec.channels,
                size=spec.size,
                range="counts" if spec.normalise else "unit",
            ),
            classes=passport.classes,
            identifiers=passport.identifiers,
            precision=self.settings.precision,
            files=files,
            loss=loss,
        )


def described(path: Path, graph: Traceable, checked: Checked, precision: Precision) -> GraphFile:
    """An entry of the manifest."""
    shapes = {name: tuple(values.shape[1:]) for name, values in graph(*graph.inputs).items()}
    return GraphFile(
        file=path.name,
        sha256=digest_of_file(path),
        precision=precision,
        outputs=shapes,
        difference=checked.difference,
        images=checked.images,
        jumps=checked.jumps,
    )


def digest_of_run(explainer: TrainedExplainer[Any, Any]) -> str:
    """SHA-256 over what was trained and how."""
    sha = hashlib.sha256(explainer.settings.model_dump_json().encode())
    for name, weights in sorted(explainer.network.state_dict().items()):
        sha.update(name.encode() + weights.contiguous().cpu().numpy().tobytes())
    return sha.hexdigest()
