"""`apercu similar`: the cases of a folder that are nearest to an image."""

from __future__ import annotations

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


def similar(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CARD|SPEC|RUN",
            help="Card or SPEC of a classifier, or the run folder of a trained explainer, whose "
            "classifier and masks are used.",
        ),
    ],
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The image.")],
    among: Annotated[
        str, typer.Option(metavar="DIR", help="Images to compare with, labelled or not.")
    ],
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table of their labels, as train classifier reads it; else their folders or "
            "labels.csv.",
        ),
    ] = None,
    out: OutOption = Path("similar"),
    count: Annotated[int, typer.Option(min=1, help="Cases for each way to compare.")] = 6,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|INDEX",
            help="Compare the region that speaks for this class; the predicted one if left out.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|none",
            help="What explains where a classifier is given: a method as in a comparison, or none "
            "for whole images only. By default cam, or grad_cam where cam is not possible.",
        ),
    ] = None,
    classifier: ExplainedOption = None,
    index: IndexOption = None,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Show the nearest cases: by the whole image, and by the region that was explained.

    Images are near where the classifier's deepest features point in the same direction. The
    features of the folder are computed once and kept, so the next image needs one pass; images
    that were added or changed are computed then. Prints the cases with distance, label and
    predicted class, and writes similar.json and report.html.

    Example: apercu similar runs/mobilenet cat.jpg --among photos/
    """
    from apercu.learning.retrieval import find_similar
    from apercu.learning.similar_cases import REPORT

    kept = index or out / "index"
    with (
        on_interrupt(f"{kept} keeps what is finished; the same command continues"),
        show_progress() as report,
    ):
        cases = find_similar(
            source,
            image,
            among,
            labels=labels,
            count=count,
            target=target,
            method=method,
            classifier=classifier,
            index=index,
            out=out,
            device=device.value,
            trust=trust,
            progress=report,
        )
    for line in cases.lines:
        say(line)
    say(cases.finding.headline)
    say(f"report: {out / REPORT}")
