"""`apercu stress train`: trains a classifier with a defence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from apercu.robustness import DefendedClassifier


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
    from apercu.robustness import train_defence

    interruptible = on_interrupt(
        f"{out} keeps what was done; continue with the same command and --resume"
    )
    with interruptible, show_progress() as report:
        result = train_defence(
            classifier,
            images,
            out,
            config=config,
            steps=steps,
            batch=batch,
            poison=poison,
            poison_fraction=poison_fraction if poison_share is None else poison_share,
            resume=resume,
            seed=seed,
            device=device.resolve(),
            progress=report,
            say=say,
        )
    _say_summary(result)


def _say_summary(result: DefendedClassifier) -> None:
    """Say where the classifier is, what the defence changed, and how to attack it."""
    out, facts = result.folder, result.facts
    say(f"trained in {facts['training_seconds'] / 60:.1f} min, {facts['steps']:.0f} steps: {out}")
    count = round(facts["measured_images"])
    kept = f"{count} image{'s' * (count != 1)} kept from training"
    for name, title in (("honest", "clean images"), ("hard", "images that the defence is for")):
        before, after = facts[f"{name}_before"], facts[name]
        say(f"target predicted, {title}: {before:.1%}, now {after:.1%} ({kept})")
    card, own = out / "card.json", result.classifier.network.filter
    option, filters = "", ",".join(result.test_filters)
    if own is not None:
        say(f"{card} has {own} in front of the network, in every command")
    elif filters != "none":
        option = f"--filters {filters} "
        say(
            f"{card} has no filter in front of the network, as it learnt {filters}: add one of them"
        )
    words = f"--classifier {card}{name_trust(card)}"
    say(f"next: apercu stress {words} {option}--images … --out stress")
