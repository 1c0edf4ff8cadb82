"""`apercu stress detect` and `apercu stress unknown`: find attacked images, and unknown ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_command
from apercu.cli.options import (
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    SeedOption,
    TrustOption,
    check_out,
)
from apercu.cli.terminal import say, warn
from apercu.progress import show_progress

if TYPE_CHECKING:
    from apercu.images import ImageSource

DEFAULT_ATTACKS = "fgsm,pgd"
"""Attacks where none are chosen, for a classifier with gradients."""


def detect(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: Annotated[
        Path, typer.Option(metavar="DIR", callback=check_out, help="Folder of the results.")
    ],
    explainer: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A trained explainer, for map and stability.")
    ] = None,
    looks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="map, stability (or stability:FILTER), deep, or a method such as cam or "
            "mine.py:MyMethod.",
        ),
    ] = None,
    detectors: Annotated[
        str,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            show_default="autoencoder, one_class_svm, mahalanobis",
            help="Detectors, fitted to clean images only.",
        ),
    ] = "autoencoder,one_class_svm,mahalanobis",
    attacks: Annotated[
        str | None,
        typer.Option(metavar="A,B:KEY=VALUE,…", help="As for apercu stress; fgsm,pgd by default."),
    ] = None,
    epsilons: Annotated[
        str, typer.Option(metavar="E,E", help="Budgets, for the attacks that have one.")
    ] = "2/255,4/255,8/255",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the images, drawn at random.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Detect attacked images by their explanations.

    Detectors learn from one half of the images, and are tested with the other half, clean and
    attacked. No detector ever learns from an attack. Writes detection.json.

    Example: apercu stress detect --classifier timm/resnet50 --images val/ --explainer run --out out
    """
    from apercu.classifiers import open_classifier
    from apercu.explainers.run_folder import check_run, load_explainer
    from apercu.images import check_images, open_images
    from apercu.io import check_writable
    from apercu.robustness.detection.benchmark import DetectionBenchmark, detect_attacks
    from apercu.robustness.detection.features import (
        parse_class_attacks,
        parse_detectors,
        parse_extractors,
    )
    from apercu.robustness.jobs import expand_budgets
    from apercu.robustness.plan import adapt_attacks, parse_attack, parse_epsilons

    parsed_detectors, budgets = parse_detectors(detectors, seed), parse_epsilons(epsilons)
    named = parse_class_attacks(DEFAULT_ATTACKS if attacks is None else attacks, seed)
    check_images(images)
    if explainer is not None:
        check_run(explainer)
    opened = open_classifier(classifier, device=device.resolve())
    run = None if explainer is None else load_explainer(explainer).to(opened.device)
    extractors = parse_extractors(looks, opened, run)
    allowed = adapt_attacks(tuple(named), opened, chosen=attacks is not None)
    if allowed != tuple(named):
        warn(f"{opened.spec} has no gradients, so it is attacked through its decisions only")
        named = {name: parse_attack(name, seed) for name in allowed}
    cases = expand_budgets(named, budgets)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    check_writable(out)
    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        benchmark = DetectionBenchmark(
            classifier=opened,
            source=source,
            extractors=extractors,
            detectors=parsed_detectors,
            attacks=cases,
            limit=limit,
            seed=seed,
            report=report,
        )
        rows = detect_attacks(
            benchmark,
            out,
            progress=report,
            command=read_command(),
        )
    if count := benchmark.count_without_class(out):
        warn(f"{count} of the test images have no predicted class, so no attack on them counts")
    for name, epsilon in cases.keys() - {(row.attack, row.epsilon) for row in rows}:
        warn(f"{name} fools the classifier with none of the images" + _format_budget(epsilon))
    for row in rows:
        if row.metric == "auroc":
            low, high = row.ci95
            say(
                f"{row.attack}{_format_budget(row.epsilon)}, {row.look}, {row.detector}: "
                f"AUROC {row.value:.3f} ({low:.3f} to {high:.3f})"
            )
    say(f"rows: {out / 'detection.json'}")


def unknown(
    classifier: ClassifierOption,
    images: ImagesOption,
    unknown: Annotated[
        list[str],
        typer.Option(metavar="DIR", help="Images of another kind; may be repeated."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", callback=check_out, help="Folder of the results.")
    ],
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="DIR", help="Known images to fit the methods to; half of --images by default."
        ),
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="max_softmax, entropy, energy, mahalanobis:components=low …; see "
            "docs/explanations/robustness.md. By default those of max_softmax, energy and "
            "mahalanobis that the classifier allows.",
        ),
    ] = None,
    false_alarms: Annotated[
        float,
        typer.Option(metavar="RATE", help="Fraction of known images that may be refused."),
    ] = 0.05,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many images of each set, at random.")
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how well methods recognise images of kinds that a classifier does not know.

    Methods are fitted to known images only; a threshold that some of them exceed is chosen on
    others, and the rest are measured. Writes results.json.

    Example: apercu stress unknown --classifier card.json --images val/ --unknown films/ --out out
    """
    from apercu.classifiers import open_classifier
    from apercu.images import check_images, open_images
    from apercu.io import check_writable
    from apercu.robustness.unknown import (
        choose_unknown_methods,
        measure_unknown,
        parse_unknown_methods,
    )
    from apercu.robustness.unknown.results import name_image_sets

    named = None if methods is None else parse_unknown_methods(methods, seed)
    names = name_image_sets(unknown)
    for text in filter(None, (images, fit, *unknown)):
        check_images(text)
    opened = open_classifier(classifier, device=device.resolve())

    chosen = choose_unknown_methods(opened) if named is None else named

    def open_set(text: str) -> ImageSource:
        return open_images(text, channels=opened.channels, bands=opened.bands)

    check_writable(out)
    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        rows = measure_unknown(
            opened,
            open_set(images),
            {name: open_set(text) for name, text in names.items()},
            chosen,
            out,
            fit=None if fit is None else open_set(fit),
            false_alarms=false_alarms,
            limit=limit,
            seed=seed,
            progress=report,
            command=read_command(),
        )
    for line in str(rows).split("\n"):
        say(line)
    say(f"rows: {out / 'results.json'}")


def _format_budget(epsilon: float | None) -> str:
    """Format a budget in steps of 8 bit, as the end of a phrase."""
    return "" if epsilon is None else f" at {255 * epsilon:g}/255"
