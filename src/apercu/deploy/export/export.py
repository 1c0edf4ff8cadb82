"""`apercu.export`: write an explainer as graphs that run without this package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier, open_classifier
from apercu.deploy.export.export_run import write_export
from apercu.deploy.export.manifest import Manifest
from apercu.deploy.export.settings import (
    FORMATS,
    PRECISIONS,
    ExportInputs,
    ExportSettings,
    check_choice,
)
from apercu.explainers.base import TrainedExplainer
from apercu.explainers.kind import describe_doubts
from apercu.explainers.run_folder import load_explainer
from apercu.extras import require_extra
from apercu.images import ImageSource, open_images


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
    seed: int = 0,
    trust: bool = False,
    report: Callable[[str], None] = lambda line: None,
) -> Manifest:
    """Write an explainer as ONNX graphs, checked against PyTorch, as `apercu export` does.

    Writes `explainer.onnx` (images, targets → maps; target -1 is the class predicted most),
    `combined.onnx` (with the prediction), `explainer.pt2`, a Triton model repository and a KServe
    manifest, as requested, and `explainer.json`, which `apercu_runtime` opens without PyTorch. A
    graph that differs from PyTorch by more than 0.001 is refused.

    >>> import apercu
    >>> manifest = apercu.export("runs/mobilenet", "exported")  # doctest: +SKIP
    >>> sorted(manifest.files)  # doctest: +SKIP
    ['classes', 'combined', 'explainer']

    Args:
        explainer: a trained mask or counterpart explainer, or its run folder.
        out: the folder that is written.
        formats: what is written besides the ONNX graphs: `torch`, `triton`, `kserve`.
        precision: the precision of the graphs, `fp32`, `fp16`, `int8` or `int8-static`.
        images: images on which the graphs are checked and the loss of a lower precision is
            measured; boxes are used where they are known.
        limit: the number of these images, drawn at random; None for all.
        calibration: images from which `int8-static` learns the ranges of activations.
        combined: whether a second graph holds the prediction, too; None for where it is possible.
        classifier: the explained classifier or its SPEC, where the explainer does not hold it.
        seed: the seed of the draw.
        trust: whether the run folder or a card may name a factory, whose code is run.
        report: receives each line about a check or a measurement.

    Returns:
        The manifest, as in `explainer.json`.

    Raises:
        UntrustedError: the run folder or a card could run code, and is not trusted.
        ConfigError: the explainer is not a graph, or something that is needed is missing.
        MissingExtraError: the packages of the extra `export` are not installed.
        RunError: the run is damaged, or the classifier is not the explained one.
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
    if not isinstance(classifier, Classifier | None):
        classifier = open_classifier(classifier, trust=trust)
    if not isinstance(explainer, TrainedExplainer):
        run = explainer
        explainer = load_explainer(run, trust=trust)
        if explainer.doubts:
            report(f"warning: {describe_doubts(run, explainer.doubts)}")
    channels = explainer.classifier_info.input.channels
    inputs = ExportInputs(
        classifier,
        _open_images(images, channels),
        _open_images(calibration, channels),
    )
    return write_export(explainer, Path(out), settings, inputs, report)


def _open_images(images: ImageSource | str | Path | None, channels: int) -> ImageSource | None:
    if images is None or isinstance(images, ImageSource):
        return images
    return open_images(images, channels=channels)
