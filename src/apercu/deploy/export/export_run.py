"""Write a folder of graphs: trace, check, convert and measure them; the manifest comes last."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from apercu.classifiers import Classifier, open_classifier
from apercu.deploy.export.checks import (
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
    check_guard,
    check_page_guard,
)
from apercu.deploy.export.manifest import (
    MANIFEST,
    GraphCheck,
    GraphFile,
    Manifest,
    PrecisionLoss,
    build_manifest,
    describe_difference,
    describe_graph,
    describe_loss,
)
from apercu.deploy.export.page import PageSubject
from apercu.deploy.export.precision import convert_graph
from apercu.deploy.export.settings import (
    FORMATS,
    PRECISIONS,
    ExportInputs,
    ExportSettings,
    ImageSubset,
    check_choice,
)
from apercu.deploy.export.tracing import (
    GraphFn,
    Traceable,
    open_program,
    open_session,
    run_session,
    write_onnx,
    write_program,
)
from apercu.deploy.export.triton import write_repository
from apercu.deploy.export.web import check_subject, write_site
from apercu.deploy.export.web_runtime import read_web_runtime
from apercu.errors import ConfigError
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.kind import describe_doubts
from apercu.explainers.run_folder import check_run, load_explainer
from apercu.extras import require_extra
from apercu.guard.guard import Guard
from apercu.guard.use import choose_guard
from apercu.images import ImageSource, check_images, open_images
from apercu.io import create_folder, write_file
from apercu.methods.base import MapScale
from apercu.run_record import lock_output
from apercu.verdicts import GuardChoice

MAX_CALIBRATION_IMAGES = 64
"""Largest number of images from which the ranges of activations are learnt."""
Report: TypeAlias = Callable[[str], None]
"""Called with each line about a check or a measurement."""


def write_export(
    explainer: TrainedExplainer[Any, Any],
    out: Path,
    settings: ExportSettings,
    inputs: ExportInputs | None = None,
    report: Report = lambda line: None,
) -> Manifest:
    """Write an explainer as files that run without this package.

    Args:
        explainer: a trained mask or counterpart explainer; it is moved to the CPU.
        out: the folder that is written.
        settings: the formats, the precision, and the sample of images.
        inputs: the classifier and the images, as far as they are needed.
        report: receives each line about a check or a measurement.

    Returns:
        The manifest, as in `explainer.json`.

    Raises:
        ConfigError: the explainer is not a graph, or something that is needed is missing.
        RunError: the classifier is not the explained one, or another process writes the folder.
        ApercuError: the outputs of a graph differ from those of PyTorch.
        OutputError: the folder cannot be written.
    """
    with create_folder(out), lock_output(out), tempfile.TemporaryDirectory() as exact:
        run = ExportRun(explainer.to("cpu"), settings, inputs or ExportInputs(), report)
        return run.write(out, Path(exact))


class ExportRun:
    """One export: the graphs of an explainer, and how each of them is checked and written.

    Args:
        explainer: a trained explainer on the CPU.
        settings: the formats, the precision, and the sample of images.
        inputs: the classifier and the images, as far as they are needed.
        report: receives each line about a check or a measurement.

    Raises:
        ConfigError: something that is needed is missing.
    """

    def __init__(
        self,
        explainer: TrainedExplainer[Any, Any],
        settings: ExportSettings,
        inputs: ExportInputs,
        report: Report,
    ) -> None:
        self.explainer, self.classifier_info = explainer, explainer.classifier_info
        self.settings, self.inputs, self.report = settings, inputs, report
        if self.classifier_info.input.stretch is not None:
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
            reason = f"{settings.precision} learns nothing from images, int8-static does"
            raise ConfigError(f"calibrate: {reason}; leave it out or give --precision int8-static")
        if settings.limit is not None and inputs.images is None:
            raise ConfigError("limit: there are no images to draw from; give --images")
        if settings.web:
            check_subject(explainer, settings.precision)
        self.guard = inputs.guard if isinstance(inputs.guard, Guard) else None
        if self.guard is not None:
            check_guard(self.guard, explainer, settings)
        self.graphs = dict(self._build_graphs(build_graph(explainer)))

    def write(self, out: Path, exact: Path) -> Manifest:
        """Write all files, once every graph was found to compute what PyTorch computes.

        Args:
            out: the folder of the export.
            exact: another folder for the graphs in single precision, from which the others are
                made.

        Returns:
            The manifest.
        """
        checks = {
            role: self._write_graph(graph, exact / role) for role, graph in self.graphs.items()
        }
        if self.settings.web:
            return self._write_site(out, exact / "combined", checks["combined"])
        files = {}
        for role, graph in self.graphs.items():
            path = self._convert_graph(exact / role, out / f"{role}.onnx", graph)
            files[role] = describe_graph(path, graph, checks[role], self.settings.precision)
            loss = self._measure_loss(role, exact / role, path)
            files[role] = files[role].model_copy(update={"loss": loss})
        if "torch" in self.settings.formats:
            files["program"] = self._write_program(out / "explainer.pt2")
        words = None if self.guard is None else self.guard.verdict_format
        manifest = build_manifest(self.explainer, self.settings.precision, files, words)
        if self.settings.triton:
            write_repository(manifest, out, service="kserve" in self.settings.formats)
        write_file(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        return manifest

    def _build_graphs(self, exportable: ExportableExplainer) -> Iterator[tuple[str, Traceable]]:
        spec = self.classifier_info.input
        if not self.settings.web:
            yield "explainer", Traceable.for_images(exportable, exportable.outputs, spec)
        if isinstance(exportable, MaskGraph) and not self.settings.web:
            classes = ClassesGraph(exportable.network)
            yield "classes", Traceable.for_classes(classes, classes.outputs, spec)
        if self.settings.combined is False:
            return
        network = self.explainer.network
        try:
            predictor = build_predictor(network, self.classifier_info, self.inputs.classifier)
        except ConfigError as error:
            if self.settings.combined or self.settings.web or self.guard:
                raise
            self.report(f"no combined graph: {error}")
            return
        judge = None if self.guard is None else self.guard.network.cpu()
        combined = CombinedGraph(exportable, predictor, self.classifier_info.decision, judge)
        yield "combined", Traceable.for_images(combined, combined.outputs, spec)

    def _write_graph(self, graph: Traceable, path: Path) -> GraphCheck:
        write_onnx(graph, path)
        return self._check_graph(
            f"{path.name}.onnx", partial(run_session, open_session(path)), graph
        )

    def _check_graph(self, name: str, run: GraphFn, graph: Traceable) -> GraphCheck:
        """Compare a graph with PyTorch, and report the difference."""
        count = len(self.classifier_info.classes)
        trials = make_trials(graph.inputs[0].shape[1:], count, self._real_images)
        if graph.takes_one_image:
            trials = make_class_trials(trials, count)
        check = check_outputs(run, graph, trials)
        self.report(describe_difference(name, check))
        return check

    def _convert_graph(self, exact: Path, path: Path, graph: Traceable) -> Path:
        batches = self._calibration
        if graph.takes_one_image:
            batches = [image for images in batches for image in torch.split(images, 1)]
        return convert_graph(exact, self.settings.precision, path, batches)

    def _write_program(self, path: Path) -> GraphFile:
        graph = self.graphs["explainer"]
        write_program(graph, path)
        check = self._check_graph(path.name, open_program(path, graph.outputs), graph)
        return describe_graph(path, graph, check, "fp32")

    def _write_site(self, out: Path, path: Path, check: GraphCheck) -> Manifest:
        """Write the folder for browsers, and return its manifest."""
        info = self.classifier_info
        entry = describe_graph(path, self.graphs["combined"], check, "fp32")
        manifest = build_manifest(self.explainer, "fp32", {"combined": entry})
        subject = PageSubject(
            self.inputs.name, self.explainer.kind, info.spec, info.names, info.input, info.output
        )
        runtime = self.inputs.web_runtime or read_web_runtime()
        run = partial(run_session, open_session(path))
        manifest = write_site(out, subject, manifest, path.read_bytes(), runtime, run)
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        self.report(f"{size / 1e6:.1f} MB; look at it with python -m http.server --directory {out}")
        return manifest

    def _measure_loss(self, role: str, exact: Path, exported: Path) -> PrecisionLoss | None:
        images = self._select_images(self.inputs.images)
        if self.settings.precision == "fp32" or images is None:
            return None
        loss = measure_precision_loss(exact, exported, images, self.classifier_info)
        classifier = self._classifier
        if role == "explainer" and classifier is None:
            self.report("quality not measured: the metrics need the classifier; give --classifier")
        elif role == "explainer" and classifier is not None:
            scale: MapScale = self.explainer.map_scale
            scores = measure_quality(classifier, images, (exact, exported), scale)
            loss = loss.model_copy(update={"scores": scores})
        for line in describe_loss(exported.name, self.settings.precision, loss):
            self.report(line)
        return loss

    @cached_property
    def _real_images(self) -> Tensor | None:
        """The first batch of the images."""
        images = self._select_images(self.inputs.images)
        return None if images is None else next(images.iterate_batches(self.classifier_info))

    @cached_property
    def _calibration(self) -> list[Tensor]:
        calibration = self._select_images(self.inputs.calibration, MAX_CALIBRATION_IMAGES)
        if calibration is None or self.settings.precision != "int8-static":
            return []
        return list(calibration.iterate_batches(self.classifier_info))

    @property
    def _classifier(self) -> Classifier | None:
        """The explained classifier, which the caller gave or the explainer holds."""
        return self.inputs.classifier or self.explainer.own_classifier

    def _select_images(
        self, source: ImageSource | None, limit: int | None = None
    ) -> ImageSubset | None:
        if source is None:
            return None
        return ImageSubset(source, limit or self.settings.limit, self.settings.seed)


def export(
    explainer: TrainedExplainer[Any, Any] | str | Path,
    out: str | Path,
    formats: Sequence[str] = ("onnx",),
    precision: str = "fp32",
    images: ImageSource | str | Path | None = None,
    *,
    limit: int | None = None,
    calibration: ImageSource | str | Path | None = None,
    combined: bool | None = None,
    classifier: Classifier | str | Path | None = None,
    web_runtime: str | Path | None = None,
    guard: GuardChoice = None,
    seed: int = 0,
    trust: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write an explainer as ONNX graphs, checked against PyTorch, as `apercu export` does.

    Writes `explainer.onnx` (images, targets → maps; target -1 is the class predicted most),
    `combined.onnx` (with the prediction), `explainer.pt2`, a Triton model repository and a KServe
    manifest, as requested, and `explainer.json`, which `apercu_runtime` opens without PyTorch. A
    graph that differs from PyTorch by more than 0.001 is refused. `formats=["web"]` writes another
    folder: a page that explains pictures and the webcam in the browser, from any static server.

    >>> import apercu
    >>> manifest = apercu.export("runs/mobilenet", "exported")  # doctest: +SKIP
    >>> sorted(manifest.files)  # doctest: +SKIP
    ['classes', 'combined', 'explainer']

    Args:
        explainer: a trained mask or counterpart explainer, or its run folder.
        out: the folder that is written.
        formats: what is written besides the ONNX graphs: `torch`, `triton`, `kserve`; or `web`
            alone.
        precision: the precision of the graphs, `fp32`, `fp16`, `int8` or `int8-static`.
        images: images on which the graphs are checked and the loss of a lower precision is
            measured; boxes are used where they are known.
        limit: the number of these images, drawn at random; None for all.
        calibration: images from which `int8-static` learns the ranges of activations.
        combined: whether a second graph holds the prediction, too; None for where it is possible.
        classifier: the explained classifier or its SPEC, where the explainer does not hold it.
        web_runtime: the tarball of `npm pack onnxruntime-web@1.30.0`, or the unpacked package, for
            the format `web`; None for the user's cache folder, which npm fills when it is empty.
        guard: a guard that was fitted with this explainer, or its folder, for the combined graph;
            `none` for none, None for the one that the card of the classifier names.
        seed: the seed of the draw.
        trust: whether the run folder or a card may name a factory, whose code is run.
        say: receives each line about a check or a measurement.

    Returns:
        The manifest, as in `explainer.json`.

    Raises:
        UntrustedError: the run folder or a card could run code, and is not trusted.
        ConfigError: the explainer is not a graph, or something that is needed is missing.
        MissingExtraError: the packages of the extra `export` are not installed.
        RunError: the run is damaged, or the classifier or the guard is not the explainer's.
        ApercuError: the outputs of a graph differ from those of PyTorch.
        OutputError: the folder cannot be written.
    """
    require_extra("export", "export")
    settings = ExportSettings(
        tuple(check_choice(name, FORMATS, "format") for name in formats),
        check_choice(precision, PRECISIONS, "precision"),
        combined,
        limit,
        seed,
    )
    if web_runtime is not None and not settings.web:
        raise ConfigError("runtime: only the format web needs it; leave it out")
    name = "explainer" if isinstance(explainer, TrainedExplainer) else Path(explainer).name
    check_images(images, calibration)
    if not isinstance(explainer, TrainedExplainer):
        check_run(explainer, trust=trust)
    if not isinstance(classifier, Classifier | None):
        classifier = open_classifier(classifier, trust=trust)
    if not isinstance(explainer, TrainedExplainer):
        run = explainer
        explainer = load_explainer(run, trust=trust)
        if explainer.doubts:
            say(f"warning: {describe_doubts(run, explainer.doubts)}")
    if classifier is not None:
        explainer.classifier_info.check_classifier(classifier)
    own = classifier or explainer.own_classifier
    check_page_guard(guard, own, settings)
    channels = explainer.classifier_info.input.channels
    inputs = ExportInputs(
        classifier=classifier,
        images=_open_images(images, channels),
        calibration=_open_images(calibration, channels),
        web_runtime=read_web_runtime(web_runtime) if settings.web else None,
        name=name,
        guard=choose_guard(guard, own, explainer),
    )
    return write_export(explainer, Path(out), settings, inputs, say)


def _open_images(images: ImageSource | str | Path | None, channels: int) -> ImageSource | None:
    if images is None or isinstance(images, ImageSource):
        return images
    return open_images(images, channels=channels)
