"""`apercu stress detect` and `apercu stress unknown`: find attacked images, and unknown ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from apercu.cli.terminal import say
from apercu.progress import show_progress


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
    from apercu.robustness import detect_attacks, open_detection
    from apercu.robustness.jobs import describe_attack

    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        benchmark = open_detection(
            classifier,
            images,
            explainer=explainer,
            looks=looks,
            detectors=detectors,
            attacks=attacks,
            epsilons=epsilons,
            limit=limit,
            seed=seed,
            device=device.resolve(),
            trust=trust,
            progress=report,
        )
        rows = detect_attacks(benchmark, out, progress=report, command=read_command())
    for row in rows:
        if row.metric == "auroc":
            low, high = row.ci95
            say(
                f"{describe_attack(row.attack, row.epsilon)}, {row.look}, {row.detector}: "
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
    from apercu.robustness.unknown import measure_unknown

    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        rows = measure_unknown(
            classifier,
            images,
            unknown,
            methods,
            out,
            fit=fit,
            false_alarms=false_alarms,
            limit=limit,
            seed=seed,
            device=device.resolve(),
            trust=trust,
            progress=report,
            command=read_command(),
        )
    for line in str(rows).split("\n"):
        say(line)
    say(f"rows: {out / 'results.json'}")
