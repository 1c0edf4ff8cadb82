"""`apercu cutouts`: cut stamps around the objects of a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import DebugOption, OutOption
from apercu.cli.terminal import say
from apercu.progress import show_progress


def cutouts(
    frames: Annotated[
        list[Path], typer.Argument(metavar="FRAME…", help="FITS files with an image per band.")
    ],
    catalogue: Annotated[
        Path, typer.Option(metavar="FILE", help="The objects: CSV, Parquet or a FITS table.")
    ],
    out: OutOption,
    size: Annotated[int, typer.Option(min=2, max=4096, help="Side of a stamp in pixels.")] = 63,
    ra: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Right ascension in degrees.")
    ] = None,
    dec: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Declination in degrees.")
    ] = None,
    x: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Pixel along a row; the first one is 1, as in FITS."),
    ] = None,
    y: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Row of pixels; the first one is 1.")
    ] = None,
    ids: Annotated[
        str | None,
        typer.Option(
            "--id", metavar="COLUMN", help="Names of the stamps; else the numbers of the rows."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Classes, which are written to labels.csv.")
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="What belongs together, such as a field; written beside the classes.",
        ),
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Cut a stamp around each object of a catalogue from large FITS frames.

    A stamp holds the same bands as its frame, raw counts, NaN beyond the edge, and its coordinates.
    Objects outside of all frames, or with more than half of their pixels missing, are left out and
    counted; so are frames that cannot be used, while there are others. The stamps and their
    labels.csv are a folder of images for every other verb.

    Example: apercu cutouts frame.fits --catalogue objects.csv --id candid --label kind --out stamps
    """
    from apercu.images.catalogue.cutouts import write_stamps

    message = f"{out} holds the stamps that were cut; the same command makes all of them again"
    with on_interrupt(message), show_progress() as report:
        summary = write_stamps(
            frames,
            catalogue,
            out,
            size,
            ra=ra,
            dec=dec,
            x=x,
            y=y,
            ids=ids,
            label=label,
            group=group,
            progress=report,
        )
    left = f", {len(summary.errors)} of {len(frames)} frames left out" if summary.errors else ""
    say(f"{summary}{left}: {out}")
