"""`apercu serve`: an explainer behind HTTP, with a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apercu.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    GuardOption,
    TrustOption,
    find_run,
    resolve_run,
)
from apercu.cli.terminal import say
from apercu.extras import require_extra
from apercu.progress import show_progress


def serve(
    run: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN",
            callback=resolve_run,
            help="Folder of a trained explainer, or of its export, or ready:NAME; or the folder or "
            "card of a classifier, which CAM explains. Without it a ready-made explainer is "
            "served.",
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Predict with the classifier itself, where the explainer does not hold it.",
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1024, max=65535, help="Port to listen on.")] = 8000,
    host: Annotated[
        str,
        typer.Option(
            metavar="127.0.0.1|0.0.0.0|::",
            help="Address to listen on: 127.0.0.1 is reached from this machine only, the others "
            "also from other machines.",
        ),
    ] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, help="Processes that explain, per device.")] = 1,
    batch: Annotated[
        int, typer.Option(min=1, help="Images that a worker explains together, at most.")
    ] = 8,
    token_file: Annotated[
        Path | None,
        typer.Option(help="A file with the bearer token that clients must send."),
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Without a token: also answer requests to this host name. May be given several "
            "times; `*` stands for every name.",
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Let the pages of this address use the server (CORS). May be given several times; "
            "`*` stands for every page.",
        ),
    ] = None,
    keep_alive: Annotated[
        float, typer.Option(min=0, help="Seconds that a connection without a request stays open.")
    ] = 5.0,
    max_body: Annotated[
        float, typer.Option(min=0.001, help="Largest request, in megabytes.")
    ] = 32.0,
    max_pixels: Annotated[
        float, typer.Option(min=0.001, help="Largest picture, in megapixels.")
    ] = 50.0,
    queue: Annotated[
        int, typer.Option(min=0, help="Images that may wait; one more is answered 503.")
    ] = 64,
    per_caller: Annotated[
        int | None,
        typer.Option(min=1, help="Images of one address at a time; one more is answered 429."),
    ] = None,
    deadline: Annotated[
        float, typer.Option(min=0.1, help="Seconds for a response, upload included.")
    ] = 30.0,
    among: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Show similar cases among these images, labelled or not, beside the explanation.",
        ),
    ] = None,
    label: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Label the images of this folder on the page, the most useful first.",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Table to which labels are written, labels.csv in --label if left out; its labels "
            "are also those of --among.",
        ),
    ] = None,
    index: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Keep the features of --among and --label here; else they are computed at every "
            "start.",
        ),
    ] = None,
    guard: GuardOption = None,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Answer requests for explanations, and show a page that makes them.

    POST /v1/explain takes an image as the form field `image`, or as base64 in JSON, with target,
    top, level, format, frame and bands. Also /v1/models/RUN:predict and :explain, /v2 (KServe),
    /healthz, /metrics (Prometheus), /openapi.json, and the page at /. The folder of `apercu
    export` is served by ONNX Runtime, which is faster on a CPU. Without a token only loopback
    names, the IP address itself and the names of --allow-host are answered. Images are neither
    kept nor logged. SIGTERM and Ctrl-C finish the requests that have arrived.

    With --among, a request may ask for similar cases (`cases`), and the page shows them. With
    --label, the page shows image after image with its explanation, and writes each label at once;
    without a token this is possible from this machine only.

    With a guard, each response says whether its prediction may be believed (`trust`), and so does
    the page.

    Example: apercu serve runs/mobilenet --port 8000
    """
    require_extra("serve", "serve")
    from apercu.deploy.serving.server import serve as run_server
    from apercu.deploy.serving.settings import (
        MEGA,
        AccessPolicy,
        CaseSettings,
        Limits,
        ServeSettings,
        WorkerConfig,
        read_token,
    )

    run = find_run(run, "serve")
    settings = ServeSettings(
        run=run,
        classifier=classifier,
        host=host,
        port=port,
        token=None if token_file is None else read_token(token_file),
        limits=Limits(
            round(max_body * MEGA), round(max_pixels * MEGA), queue, per_caller, deadline
        ),
        workers=WorkerConfig(workers, batch, device.resolve_for(run)),
        access=AccessPolicy(tuple(allow_host or ()), tuple(allow_origin or ())),
        keep_alive=keep_alive,
        cases=CaseSettings(among, label, labels, index),
        guard=guard,
    )
    run_server(settings, say, show_progress)
