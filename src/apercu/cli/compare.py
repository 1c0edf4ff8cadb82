"""`apercu compare`: methods and trained explainers, measured on the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from apercu.cli.exit_codes import StoppedError, graceful_signals, on_interrupt, read_command
from apercu.cli.options import (
    ClassifierOption,
    Context,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    OutOption,
    SeedOption,
    TrustOption,
    is_typed,
)
from apercu.cli.terminal import say, show_ranking
from apercu.errors import WorkInterrupted
from apercu.progress import show_progress

WholeMaps: TypeAlias = Literal["all", "half"]
ThresholdsFrom: TypeAlias = Literal["half", "folds", "same"]
TargetsFrom: TypeAlias = Literal["labels", "predicted"]


def compare(
    context: Context,
    classifier: ClassifierOption,
    images: ImagesOption,
    out: OutOption,
    explainer: Annotated[
        list[Path] | None,
        typer.Option(metavar="RUN", help="A trained explainer; may be given several times."),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="gradient, grad_cam, rise:masks=500, centre_box …; any with augmented=COPIES, "
            "smoothed=SIGMA or second_look=CROPS; module:MyMethod or FILE.py:MyMethod, whose "
            "code runs. By default all quick ones that classifier and images allow.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="saliency_metric, pointing_game, iou, iauc …; module:score or "
            "FILE.py:score, whose code runs. By default all that classifier and images "
            "allow, except those that are only measured by name.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of deletion and insertion.")] = 196,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Use only this many of the images, drawn at random.")
    ] = None,
    whole_maps: Annotated[
        WholeMaps | None,
        typer.Option(
            help="Images of the metrics that need no threshold: all of them (default), or the half "
            "that the others are reported on, as in version 0.1.0."
        ),
    ] = None,
    thresholds_from: Annotated[
        ThresholdsFrom | None,
        typer.Option(
            help="Images that choose thresholds. half (default): one half, and the other one is "
            "reported. folds: each half for the other one, all images are reported. same: the "
            "reported images themselves, in hindsight.",
        ),
    ] = None,
    targets: Annotated[
        TargetsFrom | None,
        typer.Option(
            help="Classes that are explained: the labels, where the images have any (default), or "
            "the predicted ones.",
        ),
    ] = None,
    cells: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Deletion and insertion flip whole cells of a grid of so many per side. Pixels "
            "when not given.",
        ),
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A published protocol that sets the metrics and the options above: rise, "
            "torchray, maxboxacc or gomez.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The row that the others are compared with, image by image. The best trained "
            "explainer when not given, or else the first one of the ranking.",
        ),
    ] = None,
    cost: Annotated[
        bool,
        typer.Option(
            "--cost/--no-cost",
            help="Whether time and memory are measured; a later call may add them.",
        ),
    ] = True,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure explainers on the same images: one half chooses thresholds, the other is reported.

    Metrics that need no threshold are reported on all images.

    Writes report.html, table.md, table.csv, results.json and scores.csv (every image), also of
    what is finished when it is interrupted (Ctrl-C or SIGTERM). What is there already of the same
    comparison is not measured again.

    Example: apercu compare --classifier timm/resnet50 --images val/ --explainer runs/a --out table
    """
    from apercu.evaluation import compare as run_compare
    from apercu.evaluation.open_explainers import QUICK

    with (
        on_interrupt("nothing was measured yet; the same command begins again"),
        graceful_signals(),
        show_progress(lines=True) as report,
    ):
        try:
            results = run_compare(
                classifier,
                images,
                explainer or [],
                out,
                methods=QUICK if methods is None else methods,
                metrics=metrics,
                limit=limit,
                seed=seed,
                steps=steps if is_typed(context, "steps") else None,
                whole_maps=whole_maps,
                thresholds_from=thresholds_from,
                targets=targets,
                cells=cells,
                protocol=protocol,
                cost=cost,
                against=against,
                device=device.resolve(),
                progress=report,
                command=read_command(),
            )
        except WorkInterrupted as stop:  # it knows which rows are finished
            raise StoppedError(str(stop)) from None
    show_ranking(results)
    say(f"report: {out / 'report.html'}")
