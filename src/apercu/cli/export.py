"""`apercu export`: a trained explainer as graphs that run without this package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.exit_codes import on_interrupt
from apercu.cli.options import (
    DebugOption,
    GuardOption,
    OutOption,
    SeedOption,
    TrustOption,
    resolve_run,
)
from apercu.cli.terminal import say


def export(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            callback=resolve_run,
            help="Folder of a trained explainer, or ready:NAME.",
        ),
    ],
    out: OutOption,
    format: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help="onnx (always written), torch, triton, kserve (with triton); or web alone.",
        ),
    ] = "onnx",
    precision: Annotated[
        str,
        typer.Option(
            metavar="fp32|fp16|int8|int8-static",
            help="Precision of the ONNX graphs; the loss is measured on --images.",
        ),
    ] = "fp32",
    images: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Images to check and measure on; boxes are used."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=2, help="Use only this many of --images, drawn at random.")
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(metavar="SPEC", help="Images that int8-static learns ranges from."),
    ] = None,
    combined: Annotated[
        bool | None,
        typer.Option(
            "--combined/--no-combined",
            help="A second graph that also predicts; by default wherever possible.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC", help="The explained classifier, where the explainer does not hold it."
        ),
    ] = None,
    runtime: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="For web: the tarball of onnxruntime-web 1.30.0 (npm pack), or its "
            "unpacked folder; by default npm fetches it once.",
        ),
    ] = None,
    guard: GuardOption = None,
    seed: SeedOption = 0,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Write an explainer as ONNX graphs, checked against PyTorch, with files for servers.

    Writes explainer.onnx (images, targets → maps; target -1 is the class predicted most),
    combined.onnx (the prediction, too), explainer.pt2, a Triton model repository and a KServe
    manifest, as requested, and explainer.json, which apercu-runtime opens without PyTorch. A graph
    that differs from PyTorch by more than 0.001 is refused. With a guard that was fitted with RUN,
    combined.onnx also says whether its prediction may be believed.

    With --format web the folder is a page that explains pictures and the webcam in the browser,
    without a server that computes: copy it to any web server.

    Example: apercu export runs/mobilenet --out exported --format onnx,triton
    """
    from apercu.deploy.export import FORMATS
    from apercu.deploy.export import export as export_explainer
    from apercu.option_strings import split_names

    with on_interrupt("what is written is not complete; the same command writes it again"):
        export_explainer(
            run,
            out,
            split_names(format, "format", FORMATS),
            precision,
            images,
            limit=limit,
            calibration=calibrate,
            combined=combined,
            classifier=classifier,
            web_runtime=runtime,
            guard=guard,
            seed=seed,
            say=say,
        )
    say(f"exported: {out}")
