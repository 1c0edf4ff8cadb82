"""`apercu train`: a trained explainer for a classifier, in a run folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

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
from apercu.cli.terminal import is_terminal, say, show_progress

if TYPE_CHECKING:
    from torch import nn

    from apercu.classifiers import Classifier
    from apercu.explainers.base import TrainedExplainer
    from apercu.explainers.settings import ExplainerSettings
    from apercu.images import ImageSource
    from apercu.training.trainer import Trainer

    S = TypeVar("S", bound=ExplainerSettings)

app = typer.Typer(
    help="Train an explainer for a classifier.", no_args_is_help=True, rich_markup_mode="rich"
)


class Precision(StrEnum):
    """Of the numbers in training."""

    FULL = "32"
    BF16 = "bf16"
    HALF = "16"

    @property
    def lightning_name(self) -> str:
        """As Lightning names it."""
        return {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}[self.value]


@app.callback()
def train() -> None:
    """Train an explainer for a classifier."""


EncoderOption = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="own, small (from scratch), timm/NAME, another classifier."),
]
DevicesOption = Annotated[int, typer.Option(min=1, help="How many devices share the work.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Of the numbers.")]


@app.command("mask")
def mask(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|PRESET", help="Settings in YAML, or light, small, paper …"),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    encoder: EncoderOption = None,
    resume: ResumeOption = False,
    devices: DevicesOption = 1,
    precision: PrecisionOption = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a mask explainer: what the classifier looks at, for any class, in one forward pass.

    No labels are used: the classifier's own answers teach it. A classifier without gradients
    (ONNX, a plain callable) is stood in for by a student that is distilled first.

    Example: apercu train mask --classifier timm/resnet50 --images photos/ --out runs/resnet50
    """
    from apercu.explainers.mask.settings import MASK_PRESETS
    from apercu.explainers.order import find_settings, override_settings
    from apercu.explainers.train import train_mask

    settings = override_settings(
        find_settings(out, config, MASK_PRESETS), steps=steps, batch=batch, encoder=encoder
    )
    machine = (device, devices, precision)
    _train(settings, train_mask, _Wanted(classifier, images, out, seed, resume), machine)


@app.command("counterpart")
def counterpart(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|PRESET", help="Settings in YAML, or light, sagen, syce, cyce."),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    encoder: EncoderOption = None,
    resume: ResumeOption = False,
    precision: PrecisionOption = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a counterpart explainer: what an image would need to change to be seen as another.

    It makes two images, one that keeps the classifier's decision and one that does not; their
    difference is the explanation. No labels are used.

    Example: apercu train counterpart --classifier chest/card.json --images films/ --out runs/chest
    """
    from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
    from apercu.explainers.order import find_settings, override_settings
    from apercu.explainers.train import train_counterpart

    stored = find_settings(out, config, COUNTERPART_PRESETS)
    settings = override_settings(stored, steps=steps, batch=batch, encoder=encoder)
    machine = (device, 1, precision)
    _train(settings, train_counterpart, _Wanted(classifier, images, out, seed, resume), machine)


@app.command("latent")
def latent(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings in YAML, or light.")
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Train a latent explainer: a path of images from one decision of the classifier to another.

    A small autoencoder learns what images look like, and what the classifier answers between
    them. The classifier is only asked, so any will do, one without gradients as well.

    Example: apercu train latent --classifier chest.onnx --images films/ --out runs/path
    """
    from apercu.explainers.latent.settings import LATENT_PRESETS
    from apercu.explainers.order import find_settings, override_settings
    from apercu.explainers.train import train_latent

    settings = override_settings(
        find_settings(out, config, LATENT_PRESETS), steps=steps, batch=batch
    )
    machine = (device, 1, Precision.FULL)
    _train(settings, train_latent, _Wanted(classifier, images, out, seed, resume), machine)


@dataclass(frozen=True)
class _Wanted:
    """What is trained for which classifier, and where it goes."""

    classifier: str
    images: str
    out: Path
    seed: int
    resume: bool


def _train(
    settings: S,
    train: Callable[[S, Trainer, Classifier, nn.Module | None], TrainedExplainer[Any, Any]],
    wanted: _Wanted,
    place: tuple[Device, int, Precision],
) -> None:
    """Opens everything, begins or goes on with the run, and says how it went."""
    from apercu.classifiers import open_classifier
    from apercu.explainers.order import TrainingRecord
    from apercu.explainers.settings import GatedSettings
    from apercu.explainers.train import build_untrained
    from apercu.images import open_images
    from apercu.training.trainer import Hardware, Trainer

    device, devices, precision = place
    machine = Hardware(device.resolve(), devices, precision.lightning_name, is_terminal())
    opened = open_classifier(wanted.classifier)
    source = open_images(wanted.images, channels=opened.channels, bands=opened.bands)
    gated = settings if isinstance(settings, GatedSettings) else None
    student = gated is not None and not opened.differentiable
    early = not student or (gated and gated.encoder != "own")  # else the student is the encoder
    network = build_untrained(settings, opened, wanted.seed) if early else None
    out = wanted.out
    TrainingRecord(
        classifier=opened.fingerprint,
        images=source.name,
        count=len(source),
        seed=wanted.seed,
        devices=devices,
        precision=machine.precision,
    ).begin(out, resume=wanted.resume)
    with on_interrupt(f"{out} keeps what was done; go on with the same command and --resume"):
        taught, facts = (
            _distil_student(opened, source, out, wanted.seed) if student else (opened, {})
        )
        fit = Trainer(taught, source, out, machine, wanted.seed, say)
        explainer = train(settings, fit, opened, network)
        if facts and fit.is_main_process:
            explainer.facts |= facts
            explainer.save_pretrained(out)
    if fit.is_main_process:
        _say_summary(out, explainer.facts)


def _distil_student(
    classifier: Classifier, source: ImageSource, out: Path, seed: int
) -> tuple[Classifier, dict[str, float]]:
    """The student of a classifier without gradients, and its facts."""
    from apercu.classifiers import StudentSettings
    from apercu.explainers.student import distil_student

    say(f"{classifier.spec} gives no gradients; a student learns to answer like it")
    settings = StudentSettings(seed=seed)
    with show_progress() as report:

        def on_step(done: int, loss: float) -> None:
            report("student", done, settings.steps)

        student, agreement = distil_student(classifier, source, out, settings, on_step)
    say(f"student: agrees with the classifier on {agreement:.1%} of held-out images")
    return student, {"student_agreement": agreement}


def _say_summary(out: Path, facts: dict[str, float]) -> None:
    """Where the run is, how long it took, and the figures that tell whether it is any good."""
    minutes = facts["training_seconds"] / 60
    say(f"trained in {minutes:.1f} min, {facts['steps']:.0f} steps: {out}")
    areas = [f"{k.removeprefix('area_')} classes {v:.3f}" for k, v in facts.items() if "area" in k]
    if areas:
        say(f"mean area of the masks: {', '.join(areas)}")
    if "flipped" in facts:
        say(
            f"similar images keep the decision: {facts['kept']:.1%}, "
            f"adversarial ones flip it: {facts['flipped']:.1%}"
        )
    say(f"next: apercu explain {out} IMAGE --out maps")
