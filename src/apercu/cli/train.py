"""`apercu train`: a trained explainer for a classifier, in a run folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.options import (
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    ImagesOption,
    SeedOption,
)
from apercu.cli.outcome import keeping
from apercu.cli.terminal import is_terminal, progress, say

if TYPE_CHECKING:
    from apercu.classifiers import Classifier
    from apercu.images import ImageSource

app = typer.Typer(
    help="Train an explainer for a classifier.", no_args_is_help=True, rich_markup_mode="rich"
)


class Precision(StrEnum):
    """Of the numbers in training."""

    FULL = "32"
    BF16 = "bf16"
    HALF = "16"

    @property
    def lightning(self) -> str:
        """As Lightning names it."""
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[self.value]


@app.callback()
def train() -> None:
    """Train an explainer for a classifier."""


@app.command("mask")
def mask(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run folder.")],
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|PRESET", help="Settings in YAML, or light, small, paper …"),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the mask phase.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per step and device.")] = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="own, small (from scratch), timm/NAME, or another classifier."
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a begun training.")] = False,
    devices: Annotated[int, typer.Option(min=1, help="How many devices share the work.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Of the numbers.")] = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a mask explainer: what the classifier looks at, for any class, in one forward pass.

    No labels are used: the classifier's own answers teach it. A classifier without gradients
    (ONNX, a plain callable) is stood in for by a student that is distilled first.

    Example: apercu train mask --classifier timm/resnet50 --images photos/ --out runs/resnet50
    """
    from apercu.classifiers import open_classifier
    from apercu.explainers.order import Order, changed, settings_for
    from apercu.explainers.train import new_network, train_mask
    from apercu.images import open_images
    from apercu.training.fit import Fit, Machine

    place = device.resolve()
    opened = open_classifier(classifier)
    source = open_images(images, channels=opened.channels)
    settings = changed(settings_for(out, config), steps=steps, batch=batch, encoder=encoder)
    machine = Machine(place, devices, precision.lightning, is_terminal())
    early = opened.differentiable or settings.encoder != "own"  # else the student is the encoder
    network = new_network(settings, opened, seed) if early else None
    Order(
        classifier=opened.fingerprint,
        images=source.name,
        count=len(source),
        seed=seed,
        devices=devices,
        precision=machine.precision,
    ).begin(out, resume=resume)
    with keeping(f"{out} keeps what was done; go on with the same command and --resume"):
        taught, facts = _teacher(opened, source, out, seed)
        fit = Fit(taught, source, out, machine, seed, say)
        explainer = train_mask(settings, fit, opened, network)
        if facts and fit.leads:
            explainer.facts |= facts
            explainer.save_pretrained(out)
    if fit.leads:
        _summary(out, explainer.facts)


def _teacher(
    classifier: Classifier, source: ImageSource, out: Path, seed: int
) -> tuple[Classifier, dict[str, float]]:
    """What the masks are trained on: the classifier, or its student, and the student's facts."""
    if classifier.differentiable:
        return classifier, {}
    from apercu.classifiers import StudentSettings
    from apercu.explainers.stand_in import stand_in

    say(f"{classifier.spec} gives no gradients; a student learns to answer like it")
    settings = StudentSettings(seed=seed)
    with progress() as report:

        def on_step(done: int, loss: float) -> None:
            report("student", done, settings.steps)

        student, agreement = stand_in(classifier, source, out, settings, on_step)
    say(f"student: agrees with the classifier on {agreement:.1%} of held-out images")
    return student, {"student_agreement": agreement}


def _summary(out: Path, facts: dict[str, float]) -> None:
    """Where the run is, how long it took, how large its masks are."""
    minutes = facts["training_seconds"] / 60
    say(f"trained in {minutes:.1f} min, {facts['steps']:.0f} steps: {out}")
    areas = [f"{k.removeprefix('area_')} classes {v:.3f}" for k, v in facts.items() if "area" in k]
    if areas:
        say(f"mean area of the masks: {', '.join(areas)}")
    say(f"next: apercu explain {out} IMAGE --out maps")
