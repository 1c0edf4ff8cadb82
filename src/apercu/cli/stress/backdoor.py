"""`apercu stress backdoor`: looks for backdoors in a classifier, and for triggers in images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt, read_command
from apercu.cli.options import (
    ClassifierOption,
    DebugOption,
    Device,
    DeviceOption,
    SeedOption,
    TrustOption,
    check_out,
)
from apercu.cli.terminal import say
from apercu.progress import show_progress

if TYPE_CHECKING:
    from apercu.robustness.backdoors.results import BackdoorReport, RuntimeFinding

MOST_LINES = 10
"""Suspicious images that are printed; all of them are in the results."""


def backdoor(
    classifier: ClassifierOption,
    images: Annotated[
        str,
        typer.Option(metavar="SPEC", help="Clean images, with labels for a removal or a test bed."),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", callback=check_out, help="Folder of the results.")
    ],
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B:KEY=VALUE,…",
            help="neural_cleanse, strip, evidence, antidote; fine_pruning, unlearning, which write "
            "a cleaned classifier. The first four, where possible, if left out.",
        ),
    ] = None,
    suspects: Annotated[
        str | None, typer.Option(metavar="SPEC", help="Images that are checked for triggers.")
    ] = None,
    poisoned: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Images that are known to carry it, for antidote."),
    ] = None,
    poison: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Run of stress train --poison: also measure with its trigger."
        ),
    ] = None,
    explainer: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A trained explainer, for evidence.")
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, help="Use this many of the images, drawn at random.")
    ] = 400,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Look for a backdoor: a class that a small mark forces on any image.

    Writes backdoors.json, and the reconstructed triggers as pictures.

    Example: apercu stress backdoor --classifier card.json --images clean/ --suspects new/ --out out
    """
    from apercu.robustness import find_backdoors

    interruptible = on_interrupt("nothing is kept of a search that did not end")
    with interruptible, show_progress(lines=True) as report:
        result = find_backdoors(
            classifier,
            images,
            out,
            methods,
            suspects=suspects,
            poisoned=poisoned,
            poison=poison,
            explainer=explainer,
            limit=limit,
            seed=seed,
            device=device.resolve(),
            trust=trust,
            progress=report,
            command=read_command(),
        )
    _say_report(result)
    say(f"all results: {out / 'backdoors.json'}")


def _say_report(result: BackdoorReport) -> None:
    """Print what was found."""
    if result.attack_success is not None:
        say(
            f"accuracy on clean images {result.accuracy}, success of the trigger "
            f"{result.attack_success}"
        )
    for row in result.suspicious_classes:
        say(
            f"class {row.name}: suspicious, a trigger of {row.size:.0f} pixels turns "
            f"{row.success:.0%} of the images (anomaly index {row.anomaly:.1f}): {row.picture}"
        )
    if result.classes and not result.suspicious_classes:
        highest = max(row.anomaly for row in result.classes)
        say(f"no class is suspicious: the highest anomaly index is {highest:.1f}, and 2 is a sign")
    for finding in result.runtime:
        _say_runtime(finding)
    for removal in result.removals:
        left = ""
        if removal.attack_success is not None:
            left = f", the trigger still works on {removal.attack_success} of those it fooled"
        say(f"{removal.method}: {removal.card}, accuracy {removal.accuracy}{left}")


def _say_runtime(finding: RuntimeFinding) -> None:
    """Print what a method that looks at single images found."""
    count = len(finding.suspicious)
    say(
        f"{finding.method}: {count} of {finding.checked} images suspicious; false alarms on "
        f"clean images {finding.false_alarms}"
    )
    if finding.detected is not None:
        say(f"{finding.method}: poisoned images recognised {finding.detected}")
    if finding.corrected is not None:
        say(f"{finding.method}: poisoned images with their true class again {finding.corrected}")
    for image in finding.suspicious[:MOST_LINES]:
        after = "" if image.corrected is None else f", without the trigger {image.corrected}"
        say(f"  {image.name}: {image.predicted}{after} ({image.score:.3g})")
    if count > MOST_LINES:
        say(f"  … and {count - MOST_LINES} more")
