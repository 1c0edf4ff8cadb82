"""`apercu stress` itself: runs every attack at every budget, with and without each filter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_command
from apercu.cli.options import (
    Context,
    DebugOption,
    Device,
    DeviceOption,
    TrustOption,
    check_out,
    is_typed,
)
from apercu.cli.terminal import say, warn
from apercu.option_strings import MAX_SEED
from apercu.progress import show_progress


def stress(
    context: Context,
    classifier: Annotated[
        str | None, typer.Option(metavar="SPEC", help="The classifier that is attacked.")
    ] = None,
    images: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder, image, Parquet file, or planted.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", callback=check_out, help="Folder of the results."),
    ] = None,
    attacks: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="fgsm, i_fgsm, pgd, smooth_pgd, mult, deepfool, carlini_wagner, auto_attack; "
            "sparse_evo, hop_skip_jump, square; pgd:norm=l2,restarts=3 …; "
            "map_pgd moves the map, eot_pgd averages over noise, margin_pgd follows the margin.",
        ),
    ] = None,
    filters: Annotated[
        str | None,
        typer.Option(metavar="A,B:KEY=VALUE,…", help="none, floyd_steinberg, jpeg:quality=75 …"),
    ] = None,
    epsilons: Annotated[
        str | None, typer.Option(metavar="E,E", help="Budgets, such as 2/255,4/255,8/255.")
    ] = None,
    knowledge: Annotated[
        str | None,
        typer.Option(
            metavar="naive,adaptive",
            help="naive attackers know the classifier only, adaptive ones also the filter.",
        ),
    ] = None,
    explainer: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A trained explainer: how far do its maps move?"),
    ] = None,
    surrogate: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="Also test with images that were made against another classifier."
        ),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings in YAML: any of these options except --out and --device. Options "
            "override it.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the images, drawn at random.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images that are attacked together.")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            "--seed", min=0, max=MAX_SEED, help="Seed of every random draw; 0 without a plan."
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Attack a classifier with each attack at each budget, with and without each filter.

    A naive attacker knows the classifier alone; an adaptive one attacks through the filter.
    Writes results.json and report.html. Results that are there already are not computed again.

    Example: apercu stress --classifier timm/resnet50 --images val/ --filters none,jpeg --out stress
    """
    if context.invoked_subcommand is not None:
        check_no_options(context)
        return
    from apercu.errors import ConfigError
    from apercu.robustness.plan import read_stress_settings
    from apercu.robustness.results import format_warning
    from apercu.robustness.stress import run_stress_test

    settings = read_stress_settings(plan, context.params)
    required = {"classifier": settings.classifier, "images": settings.images, "out": out}
    for name, value in required.items():
        if value is None:
            raise ConfigError(f"--{name} is missing; see apercu stress --help")
    folder = Path(str(out))
    interruptible = on_interrupt(f"{folder} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        results = run_stress_test(
            str(settings.classifier),
            str(settings.images),
            folder,
            settings.plan,
            explainer=settings.explainer,
            surrogate=settings.surrogate,
            device=device.resolve(),
            trust=trust,
            progress=report,
            command=read_command(),
        )
    for line in results.warnings:
        warn(format_warning(line))
    if results.guard_note:
        say(results.guard_note)
    say(f"report: {folder / 'report.html'}")


def check_no_options(context: Context) -> None:
    """Raise ConfigError for options before a subcommand, which does not receive them."""
    from apercu.errors import ConfigError

    for name in context.params:
        if name != "debug" and is_typed(context, name):
            command = context.invoked_subcommand
            raise ConfigError(
                f"--{name} is written before {command}, where it has no effect; "
                f"write it after, as in apercu stress {command} … --{name}"
            )
