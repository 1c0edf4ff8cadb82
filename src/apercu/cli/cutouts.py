"""`apercu cutouts`: cut stamps around the objects of a catalogue."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import DebugOption, OutOption
from apercu.cli.terminal import say, warn
from apercu.errors import ConfigError, ImagesError, InputError
from apercu.progress import show_progress

if TYPE_CHECKING:
    from apercu.images.catalogue.cutouts import CutoutStatus


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
    debug: DebugOption = False,
) -> None:
    """Cut a stamp around each object of a catalogue from large FITS frames.

    A stamp holds the same bands as its frame, raw counts, NaN beyond the edge, and its coordinates.
    Objects outside of all frames, or with more than half of their pixels missing, are left out and
    counted; so are frames that cannot be used, while there are others. The stamps and their
    labels.csv are a folder of images for every other verb.

    Example: apercu cutouts frame.fits --catalogue objects.csv --id candid --label kind --out stamps
    """
    from apercu.images.catalogue import read_catalogue, read_classes
    from apercu.images.catalogue.cutouts import CutoutStatus, cut_stamps, read_objects
    from apercu.io import create_folder, write_file
    from apercu.run_record import lock_output

    columns, in_pixels = _choose_columns((ra, dec), (x, y))
    table = read_catalogue(catalogue)
    objects = read_objects(table, columns, in_pixels=in_pixels, ids=ids)
    names = None if label is None else read_classes(table, label)
    files = _make_file_names(objects.ids)
    if label is None and (out / "labels.csv").exists():
        raise ConfigError(f"{out}: has a labels.csv already; give --label, or another folder")
    message = f"{out} holds the stamps that were cut; the same command makes all of them again"
    errors: list[InputError] = []
    with (
        create_folder(out),
        lock_output(out),
        on_interrupt(message),
        show_progress() as report,
    ):
        statuses = cut_stamps(
            frames,
            objects,
            size,
            lambda index, stamp: write_file(out / files[index], stamp),
            lambda count, total: report("objects", count, total),
            errors.append,
        )
    for error in errors:
        warn(str(error))
    if CutoutStatus.CUT not in statuses:
        raise ImagesError(
            f"{catalogue}: {_describe_statuses(statuses)}; check that these columns hold positions "
            "in these frames"
        )
    cut = [index for index, status in enumerate(statuses) if status is CutoutStatus.CUT]
    details = ""
    if names is not None:
        labelled = [(files[index], names[index]) for index in cut if names[index] is not None]
        write_file(out / "labels.csv", _format_labels(labelled))
        details = ", labelled"
        if len(labelled) < len(cut):
            details = f", {len(labelled)} of them in labels.csv"
    if errors:
        details += f", {len(errors)} of {len(frames)} frames left out"
    say(f"{_describe_statuses(statuses)}{details}: {out}")


def _choose_columns(
    sky: tuple[str | None, str | None], pixels: tuple[str | None, str | None]
) -> tuple[tuple[str, str], bool]:
    """Return the two columns of the positions, and whether they are pixels."""
    if any(pixels):
        if any(sky) or not all(pixels):
            raise ConfigError("--x and --y: expected both, without --ra and --dec")
        return (str(pixels[0]), str(pixels[1])), True
    return (sky[0] or "ra", sky[1] or "dec"), False


def _make_file_names(ids: tuple[str, ...]) -> tuple[str, ...]:
    """Return a file name for each id; raise ConfigError if two ids give the same."""
    from apercu.images.names import make_file_stem

    files = tuple(f"{make_file_stem(id)}.fits" for id in ids)
    name, times = Counter(file.casefold() for file in files).most_common(1)[0]
    if times > 1:
        raise ConfigError(f"--id: {times} ids give the file {name}; choose another column")
    return files


def _describe_statuses(statuses: list[CutoutStatus]) -> str:
    """Return how many stamps were cut, and why the other objects were skipped."""
    counts = Counter(statuses)
    cut = next((count for status, count in counts.items() if status.name == "CUT"), 0)
    reasons = ", ".join(
        f"{n} {status}" for status, n in sorted(counts.items()) if status.name != "CUT"
    )
    skipped = len(statuses) - cut
    return f"{cut} stamp{'s' * (cut != 1)}, {skipped} skipped" + (
        f" ({reasons})" if skipped else ""
    )


def _format_labels(rows: list[tuple[str, str | None]]) -> str:
    """Return the content of labels.csv."""
    from apercu.io import format_csv_rows

    return format_csv_rows([("file", "class"), *rows])
