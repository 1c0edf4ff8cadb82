"""`apercu batch`: explain a whole data set."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    GuardOption,
    OutOption,
    SeedOption,
    TrustOption,
    resolve_run,
)
from apercu.cli.terminal import say
from apercu.progress import show_progress

if TYPE_CHECKING:
    from apercu.deploy.batch import BatchSummary


def batch(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            callback=resolve_run,
            help="Folder of a trained mask explainer, or its export, or ready:NAME.",
        ),
    ],
    images: Annotated[
        str,
        typer.Argument(
            metavar="DIR|PARQUET|URL",
            help="A folder of pictures or of Parquet files, a Parquet file, a stack, or a URL of "
            "one (s3://, gs://, file://).",
        ),
    ],
    out: OutOption,
    target: Annotated[
        str,
        typer.Option(
            metavar="top|NAME|INDEX", help="The class to explain: the predicted one, or this one."
        ),
    ] = "top",
    level: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Threshold of the masks for boxes, above 0 and below 1.",
        ),
    ] = 0.5,
    format: Annotated[
        str, typer.Option(metavar="parquet|zarr", help="Files with rows, or arrays with chunks.")
    ] = "parquet",
    map: Annotated[
        str | None,
        typer.Option(
            metavar="png|uint8|float16",
            help="How a map is stored; png in Parquet and uint8 in Zarr if not given.",
        ),
    ] = None,
    shard: Annotated[
        int, typer.Option(min=1, help="Images in each file, or in each chunk.")
    ] = 1000,
    batch: Annotated[int, typer.Option(min=1, help="Images that are explained together.")] = 16,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Threads that read and decode.")
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that explain, on the CPU; all cores but one by default."),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="auto|local|HOST:PORT",
            help="Share the shards on a Ray cluster whose machines all see RUN, the images and "
            "--out; one thread explains in each task if --threads is not given.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only this many of the images, drawn at random.")
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Keep this column of the Parquet files beside the result, such as label or "
            "image.path; may be given several times.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Let the classifier itself predict the classes, where the explainer does not "
            "hold it.",
        ),
    ] = None,
    guard: GuardOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Explain a whole data set into sharded Parquet or Zarr, with a manifest.

    Reads, explains and writes at the same time. A row for each image, in the order of the source:
    name, size, class, probability, box at the level and map; an image that cannot be read gets a
    row with an error, and a line in errors.csv; the exit code is 0 as long as one image could be
    read. Stopped at any time, even killed, the same command
    continues where it stood. manifest.json is written last. With a guard, each row also says
    whether its class may be believed: tampered, unknown, confidence and alarms.

    Example: apercu batch runs/mobilenet photos/ --out maps
    """
    from apercu.deploy.batch import explain_dataset

    message = f"{out} holds what was finished; the same command continues"
    with on_interrupt(message), show_progress() as report:
        summary = explain_dataset(
            run,
            images,
            out,
            target=target,
            level=level,
            format=format,
            map=map,
            shard=shard,
            batch=batch,
            limit=limit,
            seed=seed,
            keep=keep or (),
            classifier=classifier,
            guard=guard,
            device=device.resolve_for(run),
            workers=workers,
            threads=threads,
            cluster=cluster,
            progress=lambda count, total: report("images", count, total),
        )
    for line in _describe_summary(summary, out):
        say(line)


def _describe_summary(summary: BatchSummary, out: Path) -> list[str]:
    """Return lines about the result, and which stage was the slowest."""
    manifest, times = summary.manifest, summary.times
    lines = []
    if times.wall:
        stages = {
            "reading": times.read / times.readers,
            "explaining": times.explain,
            "writing": times.write,
        }
        fractions = (f"{name} {seconds / times.wall:.0%}" for name, seconds in stages.items())
        lines.append(
            f"{summary.explained} images in {summary.seconds:.1f} s, "
            f"{summary.explained / summary.seconds:.1f} per second; busy: {', '.join(fractions)}; "
            f"{times.slowest} was the slowest"
        )
    else:
        lines.append("nothing was left to do")
    if manifest["errors"]:
        lines.append(
            f"{manifest['errors']} of {manifest['images']} images could not be read: errors.csv"
        )
    shards = len(manifest["shards"])
    lines.append(
        f"{manifest['images']} images in {shards} shard{'s' * (shards != 1)}, "
        f"{manifest['bytes'] / 1e6:.1f} MB: {out}"
    )
    return lines
