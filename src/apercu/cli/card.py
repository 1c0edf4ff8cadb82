"""`apercu card`: describe a classifier in a file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from apercu.cli.options import DebugOption, TrustOption
from apercu.cli.terminal import say, warn
from apercu.errors import ConfigError


def card(
    spec: Annotated[
        str,
        typer.Argument(
            metavar="SPEC",
            help="timm/NAME, torchvision/NAME, hf/NAME_OR_FOLDER, clip/NAME?texts=…, ready:NAME, "
            "FILE.pt2, FILE.onnx, package.module:factory, or a card, which is completed.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the card into this file.")
    ] = None,
    size: Annotated[
        str | None, typer.Option(metavar="SIDE|HEIGHT,WIDTH", help="Size of the images, pixels.")
    ] = None,
    resize: Annotated[
        int | None, typer.Option(min=1, help="Length of the short side before a centre crop.")
    ] = None,
    channels: Annotated[
        int | None, typer.Option(min=1, help="Number of channels; 3 by default.")
    ] = None,
    mean: Annotated[
        str | None, typer.Option(metavar="M[,M…]", help="Mean of all or of each channel.")
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(metavar="S[,S…]", help="Standard deviation of all or of each channel."),
    ] = None,
    output: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="What the numbers mean: logits, sigmoid, value …"),
    ] = None,
    output_name: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Name of the output that holds the classes, where there are several.",
        ),
    ] = None,
    value_range: Annotated[
        str | None,
        typer.Option(metavar="LOW,HIGH", help="A low and a high value of a regression."),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            metavar="T", help="Number by which logits are divided, to calibrate probabilities."
        ),
    ] = None,
    filter: Annotated[
        str | None,
        typer.Option(
            metavar="NAME[:KEY=VALUE…]", help="Filter in front of the network: jpeg:quality=75 …"
        ),
    ] = None,
    classes: Annotated[
        str | None, typer.Option(metavar="FILE", help="File with one class name per line.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A safetensors file with the weights, or a checkpoint."),
    ] = None,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a classifier card from what can be found out, and from what the options say.

    The card goes to stdout, or into --out. What could not be found out is printed on stderr, and
    so is what a completed card loses: its guard, where an option makes another classifier. All
    keys of a card are described in docs/reference/files/card.md.

    Example: apercu card net.onnx --size 224 --classes names.txt > card.json
    """
    from apercu.classifiers.draft import check_card_path, make_card

    if out is not None:
        check_card_path(out)
    draft = make_card(
        spec,
        size=_read_numbers("size", size, int),
        mean=_read_numbers("mean", mean),
        std=_read_numbers("std", std),
        classes=classes,
        channels=channels,
        output=output,
        output_name=output_name,
        value_range=_read_numbers("value-range", value_range),
        resize=resize,
        temperature=temperature,
        filter=filter,
        weights=weights,
    )
    for line in (*draft.gaps, *draft.changes):
        warn(line)
    folder = Path() if out is None else out.parent
    for key in draft.list_outside(folder):
        warn(f"{key} is outside of the folder of the card; copy it there, or open it with --trust")
    if out is None:
        typer.echo(draft.format_json(), nl=False)
    else:
        draft.write(out)
        say(f"written: {out}")


def _read_numbers(name: str, text: str | None, kind: Callable[[str], float] = float) -> Any:
    """Return the number, or the list of numbers, that an option holds."""
    if text is None:
        return None
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--{name}: expected numbers with commas, got {text!r}") from None
    return numbers[0] if len(numbers) == 1 else numbers
