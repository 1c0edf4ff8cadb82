"""`apercu label`: which images to label next."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    ExplainedOption,
    IndexOption,
    OutOption,
    TrustOption,
)
from apercu.cli.terminal import say
from apercu.progress import show_progress

FIRST_LINES = 20
"""Images that are printed; all are in the table."""


class LabelStrategy(StrEnum):
    """How images are chosen."""

    COMBINED = "combined"
    MARGIN = "margin"
    ENTROPY = "entropy"
    CENTRE = "centre"


def label(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CARD|SPEC|RUN",
            help="Card or SPEC of a classifier or of a pretrained network, or the run folder of a "
            "trained explainer.",
        ),
    ],
    images: Annotated[
        str, typer.Option(metavar="DIR", help="Images, of which some may have labels already.")
    ],
    out: OutOption = Path("to-label"),
    by: Annotated[
        LabelStrategy,
        typer.Option(
            help="margin or entropy: the most uncertain images; centre: those that are unlike all "
            "labelled ones (greedy k-centre); combined: centre among the most uncertain. A "
            "pretrained network knows no classes and takes centre only.",
        ),
    ] = LabelStrategy.COMBINED,
    batch: Annotated[int, typer.Option(min=1, help="How many images are listed.")] = 20,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table of the labels that there are; labels.csv in the folder if left out.",
        ),
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Further images that are labelled, in another folder."),
    ] = None,
    classifier: ExplainedOption = None,
    index: IndexOption = None,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """List the images whose labels would help a classifier most, with the reasons.

    Writes next.csv: the file, the reason in words, the predicted class, margin and entropy of the
    probabilities, and the distance to the nearest image that is labelled or stands before it. The
    features of the folder are computed once and kept. `apercu serve RUN --label DIR` shows the same
    list as a page on which images are labelled by keyboard.

    Example: apercu label runs/first --images photos/ --batch 50 --out to-label
    """
    from apercu.learning.labelling import NEXT, choose_images_to_label

    kept = index or out / "index"
    with (
        on_interrupt(f"{kept} keeps what is finished; the same command continues"),
        show_progress() as report,
    ):
        chosen = choose_images_to_label(
            source,
            images,
            by=by.value,
            batch=batch,
            labels=labels,
            labelled=labelled,
            classifier=classifier,
            index=index,
            out=out,
            device=device.value,
            trust=trust,
            progress=report,
        )
    for line in chosen.lines[:FIRST_LINES]:
        say(line)
    say(f"{chosen.summary}: {out / NEXT}")
