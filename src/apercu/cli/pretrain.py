"""`apercu pretrain`: a network learns from images that nobody has labelled."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
)
from apercu.cli.terminal import is_terminal, say, show_progress, warn

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.images import ImageSource
    from apercu.pretraining.inputs import CatalogueJoin
    from apercu.pretraining.settings import PretrainSettings
    from apercu.pretraining.train import PretrainImages


def pretrain(
    pretext: Annotated[
        str,
        typer.Argument(metavar="PRETEXT", help="magnitudes, transformation, adios, contrastive."),
    ],
    images: ImagesOption,
    out: RunOption,
    backbone: Annotated[
        str, typer.Option(metavar="SPEC", help="timm/NAME, drawn anew, or CARD.json to begin with.")
    ] = "timm/resnet18",
    catalogue: Annotated[
        Path | None, typer.Option(metavar="FILE", help="CSV, Parquet or FITS table.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns of magnitudes in the catalogue.")
    ] = None,
    id: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Names of the images; else by position.")
    ] = None,
    radius: Annotated[float, typer.Option(help="Of a match by position, arc seconds.")] = 2.0,
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
        typer.Option(help="Raw counts to pixels; auto is arcsinh for counts, else none."),
    ] = "auto",
    first: Annotated[
        Literal["inflate", "relearn"],
        typer.Option(help="The first layer of a card with another number of bands."),
    ] = "inflate",
    steps: StepsOption = None,
    batch: BatchOption = None,
    resume: ResumeOption = False,
    devices: Annotated[int, typer.Option(min=1, help="How many devices share the work.")] = 1,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Pretrain a network without labels: by brightness, by how images were turned, by likeness.

    Leaves card.json in the run folder, a SPEC whose answers are features, and its weights in
    timm's own naming.

    Example: apercu pretrain transformation --images films/ --backbone timm/resnet18 --out films
    """
    from apercu.images import open_images
    from apercu.pretraining.backbone import open_backbone, read_input
    from apercu.pretraining.inputs import InputOptions, choose_input
    from apercu.pretraining.named import find_pretext_settings, parse_join
    from apercu.pretraining.train import pretrain as train
    from apercu.training.record import find_settings
    from apercu.training.trainer import Hardware, Trainer

    settings = find_settings(out, config, find_pretext_settings(pretext))
    settings = settings.with_schedule(steps=steps, batch=batch)
    join = parse_join(catalogue, target, id, radius)
    source = open_images(images, channels=channels)
    looks = InputOptions(channels, size, stretch, read_input(backbone))
    opened = open_backbone(backbone, choose_input(source, looks), seed, first)
    with on_interrupt(f"{out} keeps what was done; go on with the same command and --resume"):
        shown = _read_images(source, opened, settings, join)
        further = []
        if test is not None:
            others = open_images(test, channels=channels, bands=opened.bands)
            further = [_read_images(others, opened, settings, join, shown)]
        machine = Hardware(device.resolve(), devices, progress=is_terminal())
        fit = Trainer(opened, shown.source, out, machine, seed, say)
        _, facts = train(settings, fit, shown, *further, resume=resume)
    if fit.is_main_process:
        _print_summary(out, facts)


def _read_images(
    source: ImageSource,
    backbone: Classifier,
    settings: PretrainSettings,
    join: CatalogueJoin | None,
    like: PretrainImages | None = None,
) -> PretrainImages:
    """The images that can be read, and what the pretext wants to come with them."""
    from apercu.errors import ConfigError
    from apercu.pretraining.inputs import find_readable, sample_pictures
    from apercu.pretraining.pretexts import Magnitudes
    from apercu.pretraining.targets import fit_brightness
    from apercu.pretraining.train import PretrainImages

    with show_progress() as report:
        usable, wrong = find_readable(source, backbone, lambda *count: report("images", *count))
    for error in wrong:
        warn(str(error))
    say(
        f"{source.name}: {len(usable)} of {len(source)} images can be read"
        + (f", {len(wrong)} are left out" if wrong else "")
    )
    pretext = settings.pretext
    if not isinstance(pretext, Magnitudes):
        if join is not None:
            raise ConfigError(f"catalogue: {pretext.form} needs none; leave it out")
        return PretrainImages(usable)
    if join is not None:
        shown, without = join(usable)
        if without:
            say(f"{source.name}: {without} images have no magnitude in {join.catalogue}")
        return shown
    if like is not None:
        return PretrainImages(usable, like.targets)
    return PretrainImages(
        usable, fit_brightness(sample_pictures(usable), pretext.radius, pretext.faintest)
    )


def _print_summary(out: Path, facts: dict[str, float]) -> None:
    """Where the run is, how long it took, and how far off it is."""
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    for begin, words in (("held_out_", "images held out"), ("test_", "the test")):
        found = {k.removeprefix(begin): v for k, v in facts.items() if k.startswith(begin)}
        if found:
            errors = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
            say(f"mean error on {words}: {errors}")
    say(f"next: apercu evaluate-features --network pretrained={out / 'card.json'} …")
