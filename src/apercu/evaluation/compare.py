"""`apercu.compare`: open what is named, measure it, and write the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from apercu.classifiers import Classifier, open_classifier
from apercu.classifiers.trust import trust_files
from apercu.devices import enable_gradients
from apercu.errors import ConfigError, WorkInterrupted
from apercu.evaluation.comparison import load_finished, run_comparison
from apercu.evaluation.gallery import draw_gallery
from apercu.evaluation.open_explainers import (
    ExplainerLike,
    MethodsLike,
    check_explainers,
    open_explainers,
)
from apercu.evaluation.protocols import get_protocol
from apercu.evaluation.report import write_report, write_tables
from apercu.evaluation.results import ComparisonResults
from apercu.evaluation.settings import (
    CompareSettings,
    TargetsFrom,
    ThresholdsFrom,
    WholeMaps,
)
from apercu.images import ImageSource, check_images
from apercu.io import check_writable
from apercu.methods import MapExplainer, TrueBox
from apercu.metrics import Metric
from apercu.option_strings import check_seed
from apercu.pages import join_words
from apercu.progress import ProgressCallback, ProgressOption, open_progress

REPORT_FILE = "report.html"


@enable_gradients()
def compare(
    classifier: Classifier | str | Path,
    images: ImageSource | str | Path,
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None = None,
    out: str | Path | None = None,
    *,
    methods: MethodsLike | Mapping[str, ExplainerLike] | None = None,
    metrics: str | Metric | Sequence[str | Metric] | None = None,
    limit: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    whole_maps: WholeMaps | None = None,
    thresholds_from: ThresholdsFrom | None = None,
    targets: TargetsFrom | None = None,
    cells: int | None = None,
    protocol: str | None = None,
    cost: bool = True,
    against: str | None = None,
    device: str | torch.device = "auto",
    trust: bool = False,
    progress: ProgressOption = None,
    command: str = "apercu.compare(…)",
) -> ComparisonResults:
    """Measure explainers on the same images, as `apercu compare` does.

    One half of the images chooses thresholds, and metrics that need one are reported on the other
    half; metrics that need none are reported on all images. An explainer that cannot be measured
    is listed in `failed` with its reason, and the others go on.

    >>> from torch import nn
    >>> from apercu.classifiers import ClassifierCard, InputSpec, wrap_module
    >>> from apercu.images import open_images
    >>> from apercu.methods import CentreBox
    >>> module = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    >>> names = open_images("planted:classes=3").class_names
    >>> card = ClassifierCard(source="mean", input=InputSpec(size=(32, 32)), classes=names)
    >>> explainers = {"centre": CentreBox(), "bright": lambda _, images, targets: images.mean(1)}
    >>> results = compare(
    ...     wrap_module(module, card), "planted:images=6,size=32,classes=3", explainers,
    ...     metrics="sparsity",
    ... )
    >>> [row.name for row in results.table()]  # the best one first
    ['bright', 'centre']

    Args:
        classifier: a classifier, or what `apercu.open_classifier` opens.
        images: a source of images, or what `apercu.open_images` opens.
        explainers: explainers by the names of their rows: trained explainers, their run folders,
            methods, names of methods such as `rise:masks=500`, or any function of classifier,
            images and targets to maps. Or a sequence of run folders and names of methods. None for
            all quick methods that classifier and images allow.
        out: the folder for `report.html`, `table.md`, `table.csv`, `results.json` and `scores.csv`,
            which are also written of what is finished when it is interrupted. What is there already
            of the same comparison is not measured again. None writes nothing.
        methods: further methods by name, `a,b:key=value`; `quick` for all quick ones. Settings may
            wrap any explainer by its name, `mine:smoothed=0.05`. `my.module:MyMethod` names one
            from outside the package; classes, objects and functions may be given themselves, also
            by the names of their rows, as explainers are.
        metrics: metrics by name, or `my.module:score`, or as `apercu.metrics.Metric`; None for all
            that classifier and images allow, but those that are measured by name only.
        limit: the number of images, drawn at random; None for all.
        seed: the seed of every draw.
        steps: the number of steps of deletion and insertion; None for 196.
        whole_maps: the images of the metrics that need no threshold, where others need one: `all`,
            the default, or the `half` that these are reported on, as in version 0.1.0. A folder of
            that version is continued in its way.
        thresholds_from: the images that choose thresholds. `half`, the default: one half of them,
            and the other one is reported. `folds`: each half chooses those of the other one, and
            all images are reported. `same`: the reported images themselves, in hindsight.
        targets: the classes that are explained: the `labels`, where the images have any, which is
            the default, or those that the classifier `predicted`.
        cells: deletion and insertion flip whole cells of a grid of so many per side, one per step;
            None for pixels.
        protocol: the name of a published protocol (`rise`, `torchray`, `maxboxacc`, `gomez`) that
            sets the metrics and what is not given here; see `apercu.evaluation.PROTOCOLS`. Reports
            name it, what is given otherwise, and what still differs from the published code.
        cost: whether time and memory are measured, which takes as long as some metrics; a later
            call may add them.
        against: the row that the others are compared with, image by image; None for the best
            trained explainer, or else the first one of the ranking.
        device: `auto`, `cpu`, `cuda` or `mps`, where a classifier that is opened here computes.
        trust: whether a run folder or a card may name a factory, whose code is run.
        progress: whether to show how far the work is, or a function that receives the name of the
            work, how much of it is done, and how much there is; None shows it in notebooks only.
        command: the command that the report names.

    Returns:
        The results; a table in a notebook and as text.

    Raises:
        UntrustedError: a run folder or a card could run code, and is not trusted.
        ConfigError: a method, a metric or a number is wrong, or an option changes nothing.
        ClassifierError: the classifier cannot be opened, or hides the weights that a metric needs.
        ImagesError: the images are missing, or lack the truth that a metric needs.
        RunError: an explainer was trained for another classifier, or `out` holds another
            comparison.
        OutputError: `out` cannot be written.
        ApercuError: none of the explainers could be measured; the reason of the first one.
        WorkInterrupted: it was interrupted; the message says what is kept.
    """
    options: dict[str, object] = {
        "steps": steps,
        "whole_maps": whole_maps,
        "cells": cells,
        "targets": targets,
        "thresholds_from": thresholds_from,
    }
    given = {name: value for name, value in options.items() if value is not None}
    if isinstance(methods, Mapping):
        explainers, methods = _join_named(explainers, methods), None
    check_seed(seed)
    settings = _make_settings(metrics, protocol, given, limit=limit, seed=seed, cost=cost)
    if out is not None:
        check_writable(Path(out))
    check_explainers(explainers, methods)
    check_images(images)
    if not isinstance(classifier, Classifier):
        classifier = open_classifier(classifier, device=device, trust=trust)
    classifier.require_classes()
    images = classifier.open_images(images)
    with trust_files(trust):
        opened = open_explainers(explainers, methods, classifier, images, seed)
    folder = None if out is None else Path(out)
    with open_progress(progress) as report:
        try:
            results = run_comparison(
                classifier,
                images,
                opened,
                settings,
                out=folder,
                against=against,
                progress=report,
                command=command,
            )
            if folder is not None:
                _write_all(results, opened, classifier, images, folder, report)
        except KeyboardInterrupt:
            finished = None if folder is None else load_finished(folder, classifier, images)
            if finished is not None and folder is not None:  # without any further maps
                _write_all(finished, {}, classifier, images, folder, report)
            raise WorkInterrupted(f"interrupted; {_describe_kept(folder, finished)}") from None
    return results


def _describe_kept(out: Path | None, finished: ComparisonResults | None) -> str:
    """Return what an interrupted comparison leaves behind, and what can be done."""
    if out is None:
        return "nothing is kept; give a folder as `out` to keep what is finished"
    if finished is None or not finished.explainers:
        return "no row was finished, so nothing is kept; run the same comparison again"
    rows = join_words(list(finished.explainers))
    return f"{out} keeps the finished rows ({rows}); run the same comparison again for the rest"


def _write_all(
    results: ComparisonResults,
    explainers: Mapping[str, MapExplainer | TrueBox],
    classifier: Classifier,
    source: ImageSource,
    out: Path,
    progress: ProgressCallback,
) -> None:
    """Write the report with its gallery, and the tables."""
    gallery = draw_gallery(classifier, source, explainers, results, out=out, progress=progress)
    has_guard = classifier.guard_folder is not None
    write_report(results, gallery, out / REPORT_FILE, has_guard=has_guard)
    write_tables(results, out)


def _join_named(
    explainers: Mapping[str, ExplainerLike] | Sequence[ExplainerLike] | None,
    methods: Mapping[str, ExplainerLike],
) -> dict[str, ExplainerLike]:
    """Return explainers and methods by the names of their rows."""
    if explainers is not None and not isinstance(explainers, Mapping):
        raise ConfigError(
            "methods: names for methods need names for explainers, too; give explainers as a "
            "dictionary"
        )
    named = dict(explainers or {})
    if twice := named.keys() & methods.keys():
        raise ConfigError(f"methods: {min(twice)!r} is an explainer already; take another name")
    return {**named, **methods}


def _make_settings(
    metrics: str | Metric | Sequence[str | Metric] | None,
    protocol: str | None,
    given: Mapping[str, object],
    **common: Any,
) -> CompareSettings:
    """Return the settings of a comparison; what is given goes before what a protocol says."""
    names, values = _split_metrics(metrics), dict[str, Any](given)
    if protocol is not None:
        published = get_protocol(protocol)
        names = published.metrics if names is None else names
        values = {**published.settings, **given, "protocol": protocol}
    settings = CompareSettings(names, **common, **values)
    settings.check_effects(given)
    return settings


def _split_metrics(
    metrics: str | Metric | Sequence[str | Metric] | None,
) -> tuple[str | Metric, ...] | None:
    """Return the metrics one by one, without blanks."""
    if metrics is None:
        return None
    if isinstance(metrics, str):
        metrics = metrics.split(",")
    elif not isinstance(metrics, Sequence):
        metrics = [metrics]
    names = (each.strip() if isinstance(each, str) else each for each in metrics)
    return tuple(each for each in names if each != "")
