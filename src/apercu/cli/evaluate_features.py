"""`apercu evaluate-features`: evaluates the features of networks where labels are few."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_command
from apercu.cli.options import DebugOption, Device, DeviceOption, SeedOption, TrustOption, check_out
from apercu.cli.terminal import say
from apercu.progress import show_progress


def evaluate_features(
    network: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=SPEC", help="A network with accessible layers; may be repeated."
        ),
    ],
    images: Annotated[str, typer.Option(metavar="DIR", help="Labelled images to learn from.")],
    test: Annotated[str, typer.Option(metavar="DIR", help="Labelled images to measure on.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", callback=check_out, help="Folder of the results.")
    ],
    catalogue: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV, Parquet or FITS table with classes.")
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of classes in the catalogue.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of the images' names.")
    ] = None,
    heads: Annotated[
        str, typer.Option(metavar="A,B:KEY=VALUE,…", help="Heads that learn from the features.")
    ] = "linear,dense,nearest",
    fractions: Annotated[
        str, typer.Option(metavar="F,F", help="Fractions of the labels.")
    ] = "0.01,0.05,0.1,0.25,0.5,1",
    draws: Annotated[
        int, typer.Option(min=1, help="Random draws of the labels for each fraction.")
    ] = 5,
    anew: Annotated[
        bool, typer.Option("--anew", help="Also evaluate each network with random weights.")
    ] = False,
    join: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=A,B", help="Also evaluate these networks side by side; may be repeated."
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure learning curves where labels are few: on fixed features, or with all layers.

    linear, dense (a small hidden layer) and nearest (neighbours) learn from features; clusters
    finds groups without labels, which only name them; fine_tuning trains all layers further. Every
    class keeps at least one label, and classes count the same. Writes features.json and
    report.html.

    Example: apercu evaluate-features --network a=timm/resnet18 --images train/ --test test/ --out o
    """
    from apercu.pretraining.evaluate import evaluate_features as evaluate
    from apercu.pretraining.few_labels import METRIC, parse_joins, parse_networks

    interruptible = on_interrupt(f"{out} keeps what is finished; the same command continues")
    with interruptible, show_progress(lines=True) as report:
        rows = evaluate(
            parse_networks(network),
            images,
            test,
            out,
            catalogue=catalogue,
            label=label,
            id=id,
            heads=heads,
            fractions=fractions,
            draws=draws,
            reinitialised=anew,
            joined=parse_joins(join or []),
            seed=seed,
            device=device.resolve(),
            progress=report,
            command=read_command(),
            say=say,
        )
    for row in rows:
        if row.metric == METRIC:
            low, high = row.ci95
            say(
                f"{row.start}, {row.head}, {row.labels} labels: balanced accuracy {row.value:.1%} "
                f"({low:.1%} to {high:.1%})"
            )
    say(f"report: {out / 'report.html'}")
