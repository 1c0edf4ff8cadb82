"""`apercu compare`: methods and trained explainers, measured on the same images."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_arguments
from apercu.cli.options import (
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    OutOption,
    SeedOption,
)
from apercu.cli.terminal import say, show_progress, show_ranking

if TYPE_CHECKING:
    from apercu.evaluation import ComparisonResults
    from apercu.methods import Explainer, TrueBox


def compare(
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
            help="gradient, grad_cam, rise:masks=500, centre_box …; any with augmented=COPIES or "
            "smoothed=SIGMA. All quick ones that classifier and images allow when not given.",
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="saliency_metric, localisation_error, pointing_game, iauc …; all that classifier "
            "and images allow, but the non-cumulative ones, when not given.",
        ),
    ] = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of deletion and insertion.")] = 196,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Only so many of the images, drawn at random.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Measure explainers on the same images: one half chooses thresholds, the other is reported.

    All images are reported where no metric needs a threshold.

    Writes report.html, table.md, table.csv, results.json and scores.csv (every image), also of
    what is finished when it is interrupted. What is there already of the same comparison is not
    measured again.

    Example: apercu compare --classifier timm/resnet50 --images val/ --explainer runs/a --out table
    """
    from apercu.classifiers import open_classifier
    from apercu.evaluation import CompareSettings, load_finished
    from apercu.evaluation import run_comparison as measure
    from apercu.evaluation.gallery import draw_gallery
    from apercu.evaluation.open_explainers import open_runs
    from apercu.evaluation.report import write_report, write_tables
    from apercu.images import open_images
    from apercu.methods.registry import (
        apply_seed,
        check_methods,
        find_allowed_methods,
        parse_methods,
    )

    place = device.resolve()
    chosen = None
    if metrics is not None:
        chosen = tuple(filter(None, (name.strip() for name in metrics.split(","))))
    settings = CompareSettings(chosen, limit, seed, steps=steps)
    if methods is not None:  # mistakes are told before anything is opened
        check_methods(methods) if explainer else parse_methods(methods)
    opened = open_classifier(classifier, device=place)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    runs = open_runs(explainer or [], opened)
    named = None if methods is None else parse_methods(methods, runs)
    chosen_methods = find_allowed_methods(opened, source) if named is None else named
    everything = {**runs, **apply_seed(chosen_methods, seed)}
    kept = f"{out} keeps the finished rows; the same command measures the rest"
    command = shlex.join(["apercu", *read_arguments()])

    def show(results: ComparisonResults, explainers: Mapping[str, Explainer | TrueBox]) -> None:
        shots = draw_gallery(opened, source, explainers, results, out=out, progress=report)
        write_report(results, shots, out / "report.html")
        write_tables(results, out)

    with on_interrupt(kept), show_progress(lines=True) as report:
        try:
            results = measure(
                opened, source, everything, settings, out=out, progress=report, command=command
            )
            show(results, everything)
        except KeyboardInterrupt:
            if (finished := load_finished(out, opened, source)) is not None:
                show(finished, {})  # what has been drawn of them, without asking any more
            raise
    show_ranking(results)
    say(f"report: {out / 'report.html'}")
