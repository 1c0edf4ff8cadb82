"""`apercu explain`: maps of images, as pictures, numbers and a contact sheet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    Context,
    DebugOption,
    Device,
    DeviceOption,
    GuardOption,
    OutOption,
    SeedOption,
    TrustOption,
    find_run,
    is_typed,
)
from apercu.cli.terminal import say, warn
from apercu.errors import ConfigError
from apercu.progress import show_progress

SecondLook: TypeAlias = Literal["doubtful", "all"]


def explain(
    context: Context,
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            help="Folder of a trained explainer, or ready:NAME; a ready-made one if left out.",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Images, folders or Parquet files; scan.tif#2 is page 2 of a file.",
        ),
    ] = None,
    out: OutOption = Path("maps"),
    target: Annotated[
        str,
        typer.Option(
            metavar="top|NAME|INDEX|all|predicted",
            help="The class to explain: the predicted one, a named one, all "
            "(every class, or the --top most predicted ones where there are more), or predicted "
            "(all predicted ones, where several may be). With "
            "counterparts the class to change into: top is the runner-up.",
        ),
    ] = "top",
    level: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Threshold, above 0 and below 1, at which a mask becomes a region, for boxes "
            "and crops: high for the smallest region that is sufficient, low for the smallest "
            "whose removal destroys.",
        ),
    ] = 0.5,
    top: Annotated[
        int, typer.Option(min=1, help="How many classes --target all or predicted shows at most.")
    ] = 20,
    second_look: Annotated[
        SecondLook | None,
        typer.Option(
            help="Masks in which a smaller crop is searched that keeps the class, with 20 queries "
            "of the classifier each: the doubtful ones, about a tenth, or all.",
        ),
    ] = None,
    random: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the images, drawn at random.")
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="The explained classifier, for its own classes and probabilities.",
        ),
    ] = None,
    guard: GuardOption = None,
    bands: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,…",
            help="Bands of FITS files, one per channel or one for all: names (SCI, or SCI:2 of "
            "version 2) or numbers from 1.",
        ),
    ] = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Show what the classifier looks at in images, one forward pass each.

    Writes for each image and class the raw map (NumPy, at the explainer's size) and pictures:
    overlay, what is kept, what is removed and the tight crop of a mask; both counterparts, their
    difference and the strip between them, with the probability of each step where --classifier is
    given. Also explain.json, and a contact sheet of several images. The main picture of a DICOM
    image is written as a DICOM secondary capture, too. Prints the class and its probability in one
    line for each image, with ~ where only the explainer estimates it, and with a guard whether it
    may be believed; of more than 20 images, how
    often each class is predicted.

    Example: apercu explain cat.jpg

    Example: apercu explain runs/mobilenet photos/ --target tabby --out maps
    """
    from apercu.classifiers import open_classifier
    from apercu.explain import ExplainOptions, ExplainRun, select_images
    from apercu.explainers.kind import describe_doubts
    from apercu.explainers.ready import split_run
    from apercu.explainers.run_folder import load_explainer, read_classifier_info

    options = ExplainOptions(
        target if is_typed(context, "target") else None,
        top,
        level,
        second_look,
    )
    if is_typed(context, "top") and not options.is_multiple:
        raise ConfigError("--top: only --target all and --target predicted show several classes")
    chosen, images = split_run([str(path) for path in (run, *(images or [])) if path is not None])
    run = find_run(chosen, "explain")
    names = None if bands is None else tuple(name.strip() for name in bands.split(","))
    refs = select_images(images, read_classifier_info(run).input, random, seed, names)
    if len(refs) == 1:
        refs[0].check()
    opened = None if classifier is None else open_classifier(classifier, device=device.resolve())
    explainer = load_explainer(run, device.resolve())
    explain_run = ExplainRun(explainer, options, opened, guard)
    consequence = f"{out} holds what was finished; the same command makes the rest"
    with on_interrupt(consequence), show_progress() as report:
        explain_run.write(refs, out, lambda done, total: report("images", done, total), warn, say)
    if explain_run.selector.classifier is None:
        spec = explainer.classifier_info.spec or "SPEC"
        say(f"~ is what the explainer estimates; --classifier {spec} gives the classifier's own")
    if explainer.doubts:
        warn(describe_doubts(run, explainer.doubts))
    say(f"{len(refs)} image{'s' * (len(refs) != 1)} explained: {out}")
