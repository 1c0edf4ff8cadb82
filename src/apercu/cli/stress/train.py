"""`apercu stress train`: trains a classifier with a defence."""

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
    TrustOption,
    name_trust,
)
from apercu.cli.terminal import say
from apercu.progress import show_progress


def train(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET",
            help="Settings in YAML, or hybrid, standard, adversarial, halftone_adversarial, "
            "sinkhorn, quantised_autoencoder, stochastic_student.",
        ),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    poison: Annotated[
        str | None,
        typer.Option(
            metavar="TRIGGER",
            help="Plant a backdoor, as a test bed: badnets, or dct:targets=0/3/7 …",
        ),
    ] = None,
    poison_fraction: Annotated[
        float, typer.Option(metavar="FRACTION", help="Fraction of the images that --poison marks.")
    ] = 0.1,
    poison_share: Annotated[
        float | None, typer.Option(hidden=True, help="Older name of --poison-fraction.")
    ] = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a classifier further, against attacks: with halftones, with attacked images, or both.

    Leaves card.json in the run folder, which is the SPEC of the defended classifier, with its
    filter in front.

    Example: apercu stress train --classifier timm/resnet50 --images photos/ --out runs/hybrid
    """
    from apercu.classifiers import open_classifier
    from apercu.images import check_images
    from apercu.robustness.backdoors.poisoning import PoisonedImages, parse_trigger
    from apercu.robustness.defences.settings import DEFENCES
    from apercu.robustness.defences.training import train_defence
    from apercu.training.record import find_settings
    from apercu.training.trainer import Hardware, Trainer

    settings = find_settings(out, config, DEFENCES).with_schedule(steps=steps, batch=batch)
    check_images(images)
    trigger = None if poison is None else parse_trigger(poison)
    opened = open_classifier(classifier)
    source = opened.open_images(images)
    fraction = poison_fraction if poison_share is None else poison_share
    if poison is not None and trigger is not None:
        trigger.check_classifier(opened)
        source = PoisonedImages(source, poison, opened.size, fraction, seed)
    hardware = Hardware(device.resolve())
    interruptible = on_interrupt(
        f"{out} keeps what was done; continue with the same command and --resume"
    )
    with interruptible, show_progress() as report:
        trainer = Trainer(opened, source, out, hardware, seed, say, report)
        defended, facts = train_defence(settings, trainer, resume=resume)
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    count = round(facts["measured_images"])
    kept = f"{count} image{'s' * (count != 1)} kept from training"
    for name, title in (("honest", "clean images"), ("hard", "images that the defence is for")):
        before, after = facts[f"{name}_before"], facts[name]
        say(f"target predicted, {title}: {before:.1%}, now {after:.1%} ({kept})")
    card = out / "card.json"
    own, filters = defended.network.filter, ",".join(settings.defence.test_filters)
    option = ""
    if own is not None:
        say(f"{card} has {own} in front of the network, in every command")
    elif settings.defence.has_filters:
        option = f"--filters {filters} "
        say(
            f"{card} has no filter in front of the network, as it learnt {filters}: add one of them"
        )
    words = f"--classifier {card}{name_trust(card)}"
    say(f"next: apercu stress {words} {option}--images … --out stress")
