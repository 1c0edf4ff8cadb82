"""`apercu pretrain`: pretrains a network on images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    BatchOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    ResumeOption,
    RunOption,
    SeedOption,
    StepsOption,
    TrustOption,
    name_trust,
)
from apercu.cli.terminal import say
from apercu.progress import show_progress


def pretrain(
    pretext: Annotated[
        str,
        typer.Argument(
            metavar="PRETEXT",
            help="magnitudes, transformation, adios, contrastive, colours, clusters, regions.",
        ),
    ],
    images: ImagesOption,
    out: RunOption,
    backbone: Annotated[
        str,
        typer.Option(metavar="SPEC", help="timm/NAME with new weights, or a card or its folder."),
    ] = "timm/resnet18",
    catalogue: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV, Parquet or FITS table.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns of magnitudes in the catalogue.")
    ] = None,
    id: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of the images' names; else matched by position."
        ),
    ] = None,
    radius: Annotated[
        float, typer.Option(help="Radius of a match by position, arc seconds.")
    ] = 2.0,
    test: Annotated[
        str | None, typer.Option(metavar="DIR", help="Further images to measure on.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings in YAML over the pretext's own.")
    ] = None,
    channels: Annotated[int, typer.Option(min=1, max=12, help="Bands of the images.")] = 3,
    size: Annotated[
        int | None, typer.Option(min=16, help="Side in pixels; else the first image's, up to 224.")
    ] = None,
    stretch: Annotated[
        Literal["auto", "none", "arcsinh", "log", "zscale"],
        typer.Option(help="How raw counts become pixels; auto is arcsinh for counts, else none."),
    ] = "auto",
    first: Annotated[
        Literal["inflate", "relearn"],
        typer.Option(
            help="First layer for another number of bands: mean of its weights, or random ones."
        ),
    ] = "inflate",
    steps: StepsOption = None,
    batch: BatchOption = None,
    resume: ResumeOption = False,
    devices: Annotated[int, typer.Option(min=1, help="How many devices share the work.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Pretrain a network without labels: by brightness, transformations, similarity, or colours.

    Leaves card.json in the run folder, a SPEC whose logits are features, and its weights with
    timm's own names.

    Example: apercu pretrain transformation --images films/ --backbone timm/resnet18 --out films
    """
    from apercu.pretraining.inputs import InputOptions, parse_join
    from apercu.pretraining.pretrain import PretrainInputs, pretrain_backbone
    from apercu.training.trainer import is_main_process

    join = parse_join(catalogue, target, id, radius)
    options = InputOptions(channels, size, stretch)
    interruptible = on_interrupt(
        f"{out} keeps what was done; continue with the same command and --resume"
    )
    with interruptible, show_progress() as report:
        _, facts = pretrain_backbone(
            pretext,
            PretrainInputs(images, backbone, options, first, join, test),
            out,
            config=config,
            steps=steps,
            batch=batch,
            resume=resume,
            seed=seed,
            device=device.resolve(),
            devices=devices,
            progress=report,
            say=say,
        )
    if is_main_process():
        _print_summary(out, facts)


def _print_summary(out: Path, facts: dict[str, float]) -> None:
    """Print where the run is, how long it took, and the errors that were measured."""
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    for prefix, title in (("held_out_", "images held out"), ("test_", "the test")):
        errors = {k.removeprefix(prefix): v for k, v in facts.items() if k.startswith(prefix)}
        if errors:
            values = ", ".join(f"{name} {value:.3f}" for name, value in errors.items())
            note = "; constant is the best that needs no image" if "constant_" in values else ""
            say(f"mean error on {title}: {values}{note}")
    card, trust = out / "card.json", name_trust(out / "card.json")
    say(f"next: apercu evaluate-features --network pretrained={card}{trust} …")
    say(f"or: apercu train classifier --network {out}{trust} --images … --out …")
