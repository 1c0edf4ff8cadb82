"""`apercu train`: a trained explainer for a classifier, or a classifier, in a run folder."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

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
from apercu.cli.terminal import say, warn

app = typer.Typer(
    help="Train an explainer for a classifier, or a classifier from few labels.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)


class Precision(StrEnum):
    """Precision of the numbers in training."""

    FULL = "32"
    BF16 = "bf16"
    HALF = "16"


@app.callback()
def train() -> None:
    """Train an explainer for a classifier, or a classifier from few labels."""


EncoderOption = Annotated[
    str | None,
    typer.Option(metavar="SPEC", help="own, small (from scratch), timm/NAME, another classifier."),
]
StudentOption = Annotated[
    str | None,
    typer.Option(
        metavar="SPEC",
        help="Classifier that stands in for one without gradients, such as RUN/student/card.json.",
    ),
]
StudentStepsOption = Annotated[
    int | None,
    typer.Option(min=1, help="Steps in which a student is distilled, where one is needed."),
]
DevicesOption = Annotated[int, typer.Option(min=1, help="How many devices share the work.")]
PrecisionOption = Annotated[Precision, typer.Option(help="Precision of the numbers.")]


@app.command("mask")
def mask(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None,
        typer.Option(metavar="FILE|PRESET", help="Settings in YAML, or lean, light, sharp …"),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    encoder: EncoderOption = None,
    student: StudentOption = None,
    student_steps: StudentStepsOption = None,
    resume: ResumeOption = False,
    devices: DevicesOption = 1,
    precision: PrecisionOption = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a mask explainer: what the classifier looks at, for any class, in one forward pass.

    No labels are used: it learns from the classifier's own predictions. A classifier without
    gradients (ONNX, a plain callable) is replaced by a student that is distilled first; a line
    says how long that takes, and --student-steps shortens it.

    Example: apercu train mask --classifier timm/resnet50 --images photos/ --out runs/resnet50
    """
    _train(
        out,
        kind="mask",
        classifier=classifier,
        images=images,
        config=config,
        steps=steps,
        batch=batch,
        encoder=encoder,
        student=student,
        student_steps=student_steps,
        devices=devices,
        precision=precision.value,
        resume=resume,
        seed=seed,
        device=device.resolve(),
    )


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
    student: StudentOption = None,
    student_steps: StudentStepsOption = None,
    resume: ResumeOption = False,
    precision: PrecisionOption = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a counterpart explainer: what would have to change for another decision.

    It makes two images, one that keeps the classifier's decision and one that does not; their
    difference is the explanation. No labels are used.

    Example: apercu train counterpart --classifier chest/card.json --images films/ --out runs/chest
    """
    _train(
        out,
        kind="counterpart",
        classifier=classifier,
        images=images,
        config=config,
        steps=steps,
        batch=batch,
        encoder=encoder,
        student=student,
        student_steps=student_steps,
        precision=precision.value,
        resume=resume,
        seed=seed,
        device=device.resolve(),
    )


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
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a latent explainer: a path of images from one decision of the classifier to another.

    A small autoencoder learns what images look like, and what the classifier predicts between
    them. The training needs no gradients, so it works with any classifier.

    Example: apercu train latent --classifier chest.onnx --images films/ --out runs/path
    """
    _train(
        out,
        kind="latent",
        classifier=classifier,
        images=images,
        config=config,
        steps=steps,
        batch=batch,
        resume=resume,
        seed=seed,
        device=device.resolve(),
    )


@app.command("shapley")
def shapley(
    classifier: ClassifierOption,
    images: ImagesOption,
    out: RunOption,
    config: Annotated[
        str | None, typer.Option(metavar="FILE", help="Settings in YAML, or light.")
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    encoder: EncoderOption = None,
    resume: ResumeOption = False,
    devices: DevicesOption = 1,
    precision: PrecisionOption = Precision.FULL,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a Shapley explainer: what each cell of a grid adds to a class, in one forward pass.

    It learns what the classifier predicts where some cells of an image are hidden, and needs no
    gradients, so it works with any classifier. The values of all cells add up to the prediction.

    Example: apercu train shapley --classifier chest.onnx --images films/ --out runs/shapley
    """
    _train(
        out,
        kind="shapley",
        classifier=classifier,
        images=images,
        config=config,
        steps=steps,
        batch=batch,
        encoder=encoder,
        devices=devices,
        precision=precision.value,
        resume=resume,
        seed=seed,
        device=device.resolve(),
    )


@app.command("classifier")
def classifier(
    images: ImagesOption,
    network: Annotated[
        str,
        typer.Option(
            metavar="SPEC|RUN",
            help="The start: timm/NAME, another classifier, or the run folder of a pretraining.",
        ),
    ],
    out: RunOption,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Recipes for few labels, NAME or NAME:KEY=VALUE; may be repeated."
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table of labels, also Parquet or FITS: file and label, or labels with | between "
            "them, or a column of 0 and 1 for each class, empty where nobody knows. Images that it "
            "does not name have no label.",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of what stays in one part, such as the patient."
        ),
    ] = None,
    test: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Labelled images to measure on; else a part of all."),
    ] = None,
    test_labels: Annotated[
        Path | None, typer.Option(metavar="CSV", help="Table of labels of the test images.")
    ] = None,
    unlabelled: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Images without labels, for recipes that need them."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|PRESET", help="Settings in YAML, or full, frozen, gradual, scratch."
        ),
    ] = None,
    steps: StepsOption = None,
    batch: BatchOption = None,
    search: Annotated[
        bool,
        typer.Option(
            "--search", help="First choose the rate and the layers that learn by cross-validation."
        ),
    ] = False,
    resume: ResumeOption = False,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a classifier from the labels there are, and calibrate its probabilities.

    Leaves card.json in the run folder, a SPEC for every other verb. A part of the labelled images
    only sets the temperature of the probabilities, and another one only measures.

    Example: apercu train classifier --images stamps/ --network runs/survey --out runs/stamps
    """
    from apercu.learning import train_classifier
    from apercu.progress import show_progress

    kept = f"{out} keeps what was done; continue with the same command and --resume"
    with on_interrupt(kept), show_progress() as report:
        result = train_classifier(
            images,
            network,
            out,
            labels=labels,
            group=group,
            test=test,
            test_labels=test_labels,
            unlabelled=unlabelled,
            recipes=recipe or (),
            config=config,
            steps=steps,
            batch=batch,
            search=search,
            resume=resume,
            seed=seed,
            device=device.resolve(),
            progress=report,
            say=say,
        )
    _say_figures(result)


def _say_figures(result: Any) -> None:
    """Say where the classifier is, and how good it is on the test part."""
    figures, out = result.figures, result.folder
    minutes = figures.training["training_seconds"] / 60
    say(f"trained in {minutes:.1f} min, {figures.training['steps']:.0f} steps: {out}")
    say(", ".join(f"{count} {part} images" for part, count in figures.images.items()))
    for name in ("balanced_accuracy", "auroc"):
        say(f"{name.replace('_', ' ')}: {figures.figures[name].text}")
    before, after = (
        each["calibration_error"].value for each in (figures.uncalibrated, figures.figures)
    )
    say(
        f"calibration error: {before:.3f}, then {after:.3f} at temperature "
        f"{figures.temperature:.2f} (by chance alone {figures.calibrated.chance_error:.3f})"
    )
    if not figures.calibrated.is_good:
        warn(
            "the confidences are not well calibrated; more labels help, or "
            "restore_frequencies: true in the settings where some classes are rare"
        )
    card = out / "card.json"
    say(f"next: apercu train mask --classifier {card}{name_trust(card)} --images … --out …")


def _train(out: Path, **options: Any) -> None:
    """Train with the options as they were typed, and print a summary."""
    from apercu.explainers.train import train as train_explainer
    from apercu.training.trainer import is_main_process

    with on_interrupt(f"{out} keeps what was done; continue with the same command and --resume"):
        explainer = train_explainer(out=out, progress=True, say=say, **options)
    if is_main_process():
        _say_summary(out, explainer.facts, explainer.classifier_info.spec)


def _say_summary(out: Path, facts: dict[str, float], spec: str) -> None:
    """Say where the run is, how long it took, and how good the explainer is."""
    minutes = facts["training_seconds"] / 60
    say(f"trained in {minutes:.1f} min, {facts['steps']:.0f} steps: {out}")
    if "area_true" in facts:
        say(
            f"area of the masks: {facts['area_true']:.3f} of the image for the predicted class, "
            f"{facts['area_absent']:.3f} for an absent one (which should be far less)"
        )
        say(
            f"probability of the predicted class: {facts['kept_probability']:.3f} where only the "
            f"mask is left, {facts['removed_probability']:.3f} where it is removed (the first "
            f"should be far higher); advantage over moved masks: {facts['advantage']:+.3f}"
        )
    if "explained" in facts:
        say(
            f"Shapley values: they explain {facts['explained']:.1%} of the squared error of equal "
            "values, on subsets of the cells (images kept from training; should be near 100%)"
        )
    if "flipped" in facts:
        say(
            f"similar images keep the decision: {facts['kept']:.1%}, "
            f"adversarial ones flip it: {facts['flipped']:.1%} (of images kept from training; both "
            "should be near 100%)"
        )
    say(f"next: apercu explain {out} IMAGE --out maps{name_trust(out / 'encoder/card.json', spec)}")
