"""`apercu guard`: whether an answer may be believed, learnt from clean images, and then asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_command
from apercu.cli.options import (
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
    from apercu.guard import Guard

app = typer.Typer(
    help="Learn what is usual for a classifier, and say of an image whether its answer may be "
    "believed.",
    no_args_is_help=True,
)
CardArgument = Annotated[
    str,
    typer.Argument(metavar="CARD", help="Card of the classifier, its folder, or any other SPEC."),
]
ObservedOption = Annotated[
    Path | None,
    typer.Option(
        metavar="RUN",
        help="A trained explainer of masks. Its encoder and its mask of the predicted class are "
        "observed, so that an explained image costs no further pass.",
    ),
]


@app.command("fit")
def fit(
    card: CardArgument,
    images: ImagesOption,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="GUARD", callback=check_out, help="Folder of the guard."),
    ],
    explainer: ObservedOption = None,
    calibration: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="Images with labels that the classifier was not trained on, which alone calibrate "
            "the confidence; a part of --images if left out.",
        ),
    ] = None,
    false_alarms: Annotated[
        float,
        typer.Option(
            metavar="FRACTION",
            help="Fraction of clean images that may raise an alarm, for each question.",
        ),
    ] = 0.05,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the images, drawn at random.")
    ] = None,
    attach: Annotated[
        bool,
        typer.Option(
            "--attach",
            help="Write the guard into the card, so that every verb that opens the card uses it; "
            "GUARD lies in the folder of the card.",
        ),
    ] = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Learn from clean images alone what is usual for a classifier.

    Two thirds of the images fit what is looked at: fine noise, features, the mask of an explainer.
    The other third says what is usual, and sets the thresholds; with labels it also calibrates the
    confidence, which without labels has the temperature of the card. GUARD holds guard.json
    and guard.safetensors, and belongs to this classifier alone.
    At least 60 images are needed; some hundreds are better.

    Example: apercu guard fit runs/films/card.json --images films/ --out runs/films/guard --attach
    """
    from apercu.guard import fit_guard

    interruptible = on_interrupt(f"{out} keeps what was observed; the same command goes on")
    with interruptible, show_progress() as report:
        guard = fit_guard(
            card,
            images,
            out,
            explainer=explainer,
            calibration=calibration,
            false_alarms=false_alarms,
            limit=limit,
            seed=seed,
            attach=attach,
            device=device.resolve(),
            trust=trust,
            progress=report,
        )
    _say_guard(guard)
    say(f"written: {out}" + f"; {card} names it" * attach)


@app.command("check")
def check(
    card: CardArgument,
    images: Annotated[
        list[str], typer.Argument(metavar="IMAGE", help="Images, folders or Parquet files.")
    ],
    guard: Annotated[
        Path | None,
        typer.Option(
            metavar="GUARD", help="Folder of the guard; the one that CARD names if left out."
        ),
    ] = None,
    explainer: ObservedOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per image, in a line each.")
    ] = False,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Classify images, and say of each whether the answer may be believed.

    Prints a line for each image: its class, whether the guard raises an alarm and why, and the
    confidence. `tampered` and `unknown` (with --json) are the fractions of clean images that look
    less tampered with, and less unknown: 0.99 is rarer than 99 of 100 clean images. An image that
    cannot be classified gets a line with its error, and the exit code is then 2.

    Example: apercu guard check runs/films/card.json new/ --guard runs/films/guard
    """
    from apercu.errors import ImagesError
    from apercu.guard import check_files, open_guard

    opened = open_guard(card, guard, explainer, device=device.resolve(), trust=trust)
    failed = total = 0
    for image in check_files(opened, images):
        total += 1
        failed += image.error is not None
        if as_json:
            say(json.dumps(image.to_record(), ensure_ascii=False))
        elif image.error is not None:
            warn(image.line)
        else:
            say(image.line)
    if failed:
        raise ImagesError(f"{failed} of {total} images could not be checked; the others are above")


@app.command("measure")
def measure(
    card: CardArgument,
    images: ImagesOption,
    out: Annotated[
        Path,
        typer.Option("--out", metavar="DIR", callback=check_out, help="Folder of the results."),
    ],
    guard: Annotated[
        Path | None,
        typer.Option(
            metavar="GUARD", help="Folder of the guard; the one that CARD names if left out."
        ),
    ] = None,
    explainer: ObservedOption = None,
    unknown: Annotated[
        list[str] | None,
        typer.Option(
            metavar="IMAGES",
            help="Images of another kind, which should be recognised; again for more kinds. noise "
            "is made; backgrounds are parts of the clean images outside of their boxes.",
        ),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="As for apercu stress; fgsm,pgd by default, and none for no attack. aware_pgd "
            "knows of the guard.",
        ),
    ] = None,
    epsilons: Annotated[
        str, typer.Option(metavar="E,E", help="Budgets, for the attacks that have one.")
    ] = "2/255,4/255,8/255",
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use only this many images of each kind, drawn at random."),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure how often a guard is wrong on clean images, and what it recognises.

    The images are clean ones that it was not fitted to; attacks change them. Writes
    guard_results.json and report.html, with false alarms, curves and every kind of images.

    Example: apercu guard measure card.json --images val/ --guard guard --unknown noise --out out
    """
    from apercu.robustness.guards.measure import measure_guard

    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        rows = measure_guard(
            card,
            images,
            out,
            guard=guard,
            explainer=explainer,
            unknown=unknown or (),
            attacks=attacks,
            epsilons=epsilons,
            limit=limit,
            seed=seed,
            device=device.resolve(),
            trust=trust,
            progress=report,
            command=read_command(),
        )
    for line in str(rows).split("\n"):
        say(line)
    for row in rows:
        if row.question == "confidence":
            low, high = row.ci95
            title = row.metric.replace("_", " ")
            say(f"{title}, clean images: {row.value:.3f} ({low:.3f} to {high:.3f})")
    say(f"report: {out / 'report.html'}")


def _say_guard(guard: Guard) -> None:
    """Print what the guard was fitted to, and what it looks at."""
    record = guard.record
    say(
        f"fitted to {record.fitted} clean images, thresholds from {record.held_out} others: "
        f"at most {record.false_alarms:.0%} false alarms for each question"
    )
    say(f"looks at: {', '.join(record.signals)}")
    say(guard.calibration_line)
