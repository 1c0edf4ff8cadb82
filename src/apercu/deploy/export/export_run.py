"""From a run to a folder of graphs: traced, checked, converted, measured; the manifest last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apercu.classifiers import Classifier
from apercu.deploy.export.checks import (
    GraphCheck,
    GraphFn,
    check_outputs,
    make_class_trials,
    make_trials,
    measure_precision_loss,
    measure_quality,
)
from apercu.deploy.export.graphs import (
    ClassesGraph,
    CombinedGraph,
    ExportableExplainer,
    MaskGraph,
    build_graph,
    build_predictor,
    find_explained_classifier,
)
from apercu.deploy.export.manifest import (
    MANIFEST,
    GraphFile,
    Manifest,
    PrecisionLoss,
    build_manifest,
    describe_difference,
    describe_graph,
    describe_loss,
)
from apercu.deploy.export.precision import convert_graph
from apercu.deploy.export.settings import ExportInputs, ExportSettings, ImageSubset
from apercu.deploy.export.tracing import (
    Traceable,
    open_program,
    open_session,
    run_session,
    write_onnx,
    write_program,
)
from apercu.deploy.export.triton import write_repository
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.images import ImageSource
from apercu.io import check_writable, write_file
from apercu.methods.base import MapScale

MAX_CALIBRATION_IMAGES = 64
"""Images that the ranges of activations are learnt from, at most."""

Say = Callable[[str], None]


def write_export(
    explainer: TrainedExplainer[Any, Any],
    out: Path,
    settings: ExportSettings,
    inputs: ExportInputs | None = None,
    say: Say = lambda line: None,
) -> Manifest:
    """Writes an explainer as files that run without this package.

    Raises:
        ConfigError: the explainer is no graph, or something that is needed was not given.
        RunError: the classifier is not the explained one.
        ApercuError: a file answers otherwise than PyTorch.
        OutputError: the folder cannot be written.
    """
    job = ExportRun(explainer.to("cpu"), settings, inputs or ExportInputs(), say)
    check_writable(out)
    with tempfile.TemporaryDirectory() as exact:
        return job(out, Path(exact))


class ExportRun:
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
        inputs: ExportInputs,
        say: Say,
    ) -> None:
        self.explainer, self.passport = explainer, explainer.classifier_info
        self.settings, self.materials, self.say = settings, inputs, say
        if self.passport.input.stretch is not None:
            raise ConfigError(
                "export: its classifier stretches raw counts, which the runtime cannot do; "
                "explain them with PyTorch"
            )
        if settings.precision != "fp32" and inputs.images is None:
            raise ConfigError(
                f"precision: what {settings.precision} loses is measured; give --images"
            )
        if settings.precision == "int8-static" and inputs.calibration is None:
            raise ConfigError(
                "precision: int8-static learns the ranges of activations from images; "
                "give --calibrate"
            )
        if settings.precision != "int8-static" and inputs.calibration is not None:
            raise ConfigError(
                f"calibrate: {settings.precision} learns nothing from images, int8-static does; "
                "leave it out or give --precision int8-static"
            )
        if settings.limit is not None and inputs.images is None:
            raise ConfigError("limit: there are no images to draw from; give --images")
        self.graphs = dict(self._build_graphs(build_graph(explainer)))

    def __call__(self, out: Path, exact: Path) -> Manifest:
        """All files, once every graph is known to answer as PyTorch does.

        Those of single precision, which the others are made from, go to a folder apart.
        """
        checks = {
            role: self._write_graph(graph, exact / role) for role, graph in self.graphs.items()
        }
        files = {}
        for role, graph in self.graphs.items():
            path = self._convert_graph(exact / role, out / f"{role}.onnx", graph)
            files[role] = describe_graph(path, graph, checks[role], self.settings.precision)
            loss = self._measure_loss(role, exact / role, path)
            files[role] = files[role].model_copy(update={"loss": loss})
        if "torch" in self.settings.formats:
            files["program"] = self._write_program(out / "explainer.pt2")
        manifest = build_manifest(self.explainer, self.settings.precision, files)
        if self.settings.triton:
            write_repository(manifest, out, service="kserve" in self.settings.formats)
        write_file(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        return manifest

    def _build_graphs(self, exportable: ExportableExplainer) -> Iterator[tuple[str, Traceable]]:
        spec = self.passport.input
        yield "explainer", Traceable.for_images(exportable, exportable.outputs, spec)
        if isinstance(exportable, MaskGraph):
            classes = ClassesGraph(exportable.network)
            yield "classes", Traceable.for_classes(classes, classes.outputs, spec)
        if self.settings.combined is False:
            return
        network = self.explainer.network
        try:
            read = build_predictor(network, self.passport, self.materials.classifier)
        except ConfigError as error:
            if self.settings.combined:
                raise
            self.say(f"no combined graph: {error}")
            return
        combined = CombinedGraph(exportable, read)
        yield "combined", Traceable.for_images(combined, combined.outputs, spec)

    def _write_graph(self, graph: Traceable, path: Path) -> GraphCheck:
        write_onnx(graph, path)
        return self._check_graph(
            f"{path.name}.onnx", partial(run_session, open_session(path)), graph
        )

    def _check_graph(self, name: str, run: GraphFn, graph: Traceable) -> GraphCheck:
        """Compares with PyTorch, and tells the figure."""
        classes = len(self.passport.classes)
        asked = make_trials(graph.inputs[0].shape[1:], classes, self._real_images)
        checked = check_outputs(
            run, graph, make_class_trials(asked, classes) if graph.takes_one_image else asked
        )
        self.say(describe_difference(name, checked))
        return checked

    def _convert_graph(self, exact: Path, path: Path, graph: Traceable) -> Path:
        shown = self._calibration
        if graph.takes_one_image:
            shown = [image for images in shown for image in torch.split(images, 1)]
        return convert_graph(exact, self.settings.precision, path, shown)

    def _write_program(self, path: Path) -> GraphFile:
        graph = self.graphs["explainer"]
        write_program(graph, path)
        checked = self._check_graph(path.name, open_program(path, graph.outputs), graph)
        return describe_graph(path, graph, checked, "fp32")

    def _measure_loss(self, role: str, exact: Path, exported: Path) -> PrecisionLoss | None:
        shown = self._select_images(self.materials.images)
        if self.settings.precision == "fp32" or shown is None:
            return None
        loss = measure_precision_loss(exact, exported, shown, self.passport)
        classifier = self._classifier
        if role == "explainer" and classifier is None:
            self.say("yardstick not measured: it asks the classifier; give --classifier")
        elif role == "explainer" and classifier is not None:
            kind: MapScale = "mask" if self.explainer.makes_masks else "map"
            scores = measure_quality(classifier, shown, (exact, exported), kind)
            loss = loss.model_copy(update={"scores": scores})
        for line in describe_loss(exported.name, self.settings.precision, loss):
            self.say(line)
        return loss

    @cached_property
    def _real_images(self) -> Tensor | None:
        """Some images to check with."""
        shown = self._select_images(self.materials.images)
        return None if shown is None else next(shown.iterate_batches(self.passport))

    @cached_property
    def _calibration(self) -> list[Tensor]:
        calibration = self._select_images(self.materials.calibration, MAX_CALIBRATION_IMAGES)
        if calibration is None or self.settings.precision != "int8-static":
            return []
        return list(calibration.iterate_batches(self.passport))

    @property
    def _classifier(self) -> Classifier | None:
        """The explained one, wherever it comes from."""
        own = find_explained_classifier(self.explainer.network, self.passport)
        return self.materials.classifier or own

    def _select_images(
        self, source: ImageSource | None, limit: int | None = None
    ) -> ImageSubset | None:
        if source is None:
            return None
        return ImageSubset(source, limit or self.settings.limit, self.settings.seed)
