"""`apercu stress train`: a classifier that has learnt a defence."""

from __future__ import annotations

from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    BatchOption,
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    ResumeOption,
    RunOption,
    SeedOption,
    StepsOption,
)
from apercu.cli.terminal import is_terminal, say


def train(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET",
            help="Settings in YAML, or hybrid, standard, adversarial, halftone_adversarial, "
            "sinkhorn.",
        ),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a classifier further, against attacks: with halftones, with attacked images, or both.

    Leaves card.json in the run folder, which is the SPEC of the defended classifier.

    Example: apercu stress train --classifier timm/resnet50 --images photos/ --out runs/hybrid
    """
    from apercu.classifiers import open_classifier
    from apercu.images import open_images
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.defences.training import train_defence
    from apercu.robustness.plan import NONE
    from apercu.training.record import find_settings
    from apercu.training.trainer import Hardware, Trainer

    settings = find_settings(out, config, DEFENCES).with_schedule(steps=steps, batch=batch)
    opened = open_classifier(classifier)
    source = open_images(images, channels=opened.channels, bands=opened.bands)
    machine = Hardware(device.resolve(), progress=is_terminal())
    with on_interrupt(f"{out} keeps what was done; go on with the same command and --resume"):
        trainer = Trainer(opened, source, out, machine, seed, say)
        _, facts = train_defence(settings, trainer, resume=resume)
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    for name, told in (("honest", "honest images"), ("hard", "what the defence is for")):
        say(f"answered as wanted, {told}: {facts[f'{name}_before']:.1%}, now {facts[name]:.1%}")
    filters = ",".join(settings.defence.test_filters)
    behind = "" if filters == NONE else f"--filters {filters} "
    say(f"next: apercu stress --classifier {out / 'card.json'} {behind}--images … --out stress")
