"""`apercu video`: draw what a classifier looks at over a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import StoppedError, graceful_signals
from apercu.cli.options import (
    DebugOption,
    Device,
    DeviceOption,
    GuardOption,
    TrustOption,
    resolve_run,
)
from apercu.cli.terminal import say, warn
from apercu.extras import require_extra
from apercu.progress import show_progress

if TYPE_CHECKING:
    from apercu.deploy.video import VideoSummary


def video(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            callback=resolve_run,
            help="Folder of a trained mask explainer, or one that export wrote, or ready:NAME.",
        ),
    ],
    source: Annotated[
        str,
        typer.Argument(
            metavar="IN", help="A video file, a camera (/dev/video0), or an address (rtsp://…)."
        ),
    ],
    out: Annotated[
        Path, typer.Argument(metavar="OUT", help="A new .mp4, .mov, .mkv or .webm file.")
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="top|NAME|INDEX",
            help="The class to explain: the most probable one of the last moments, or a named one.",
        ),
    ] = "top",
    smoothing: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Half-life of a running mean of the maps, which moves with the picture; 0 shows "
            "each map as it is.",
        ),
    ] = 0.0,
    every: Annotated[
        int,
        typer.Option(min=1, help="Explain one frame of this many; the others show the last map."),
    ] = 1,
    seconds: Annotated[
        float | None, typer.Option(help="Stop after this much of the video.")
    ] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Do not wait: play a file at its own speed, and drop frames that come while "
            "another is in work. Cameras and RTSP are always live.",
        ),
    ] = False,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Let the classifier itself predict the classes, where a run does not hold it.",
        ),
    ] = None,
    guard: GuardOption = None,
    device: DeviceOption = Device.AUTO,
    trust: TrustOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw what the classifier looks at over a video, with the class and its probability.

    Sound is copied. Memory does not grow with the length. The bar is the mean probability over
    the last moments. How much the maps flicker is measured, with and without --smoothing. Ctrl-C or
    SIGTERM leaves a file that holds what was finished and can be played.

    Example: apercu video runs/mobilenet walk.mp4 seen.mp4 --smoothing 0.2
    """
    require_extra("video", "video")
    from apercu.deploy.video import explain_video

    with graceful_signals():
        with show_progress() as report:
            summary = explain_video(
                run,
                source,
                out,
                target=target,
                smoothing=smoothing,
                every=every,
                seconds=seconds,
                live=live,
                classifier=classifier,
                guard=guard,
                device=device.resolve_for(run),
                progress=lambda count, total: report("frames", count, total),
            )
        _print_summary(summary, out)


def _print_summary(summary: VideoSummary, out: Path) -> None:
    """Say what was written; raise StoppedError if it was ended early."""
    for line in summary.warnings:
        warn(line)
    if not out.exists():
        raise StoppedError("interrupted; nothing was written")
    for line in _describe_summary(summary):
        say(line)
    if summary.stopped and not summary.live:
        raise StoppedError(
            f"interrupted; {out} holds the first {summary.seconds:.1f} s and can be played"
        )
    say(f"written: {out}")


def _describe_summary(summary: VideoSummary) -> list[str]:
    """Return lines about what was written."""
    rate = summary.frames / summary.wall_seconds
    lines = [f"{summary.frames} frames, {summary.seconds:.1f} s, at {rate:.1f} frames per second"]
    if summary.live:
        lines.append(f"dropped: {summary.dropped} frames that came while another was in work")
    lines += [f"sound: {sound}" for sound in summary.audio]
    if summary.alarms is not None:
        lines.append(
            f"guard: {summary.alarms} of {summary.explained} explained frames raise an alarm or "
            "cannot be judged"
        )
    if (flicker := summary.flicker) is not None:
        smoothed = f", {flicker.smoothed:.4f} as shown; maps lag by {flicker.lag:.4f}"
        lines.append(f"flicker: {flicker.raw:.4f} as the maps come{smoothed * (flicker.lag > 0)}")
    return lines
