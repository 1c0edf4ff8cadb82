"""`apercu video`: what a classifier looks at, drawn over a video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apercu.cli.exit_codes import StoppedError
from apercu.cli.options import DebugOption, Device, DeviceOption
from apercu.cli.stopping import graceful_signals
from apercu.cli.terminal import say, show_progress, warn

if TYPE_CHECKING:
    from apercu.deploy.video import VideoSource, VideoSummary


def video(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a trained mask explainer, or one that export wrote."
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
            help="The class to look for: the one seen most over the last moments, or a named one.",
        ),
    ] = "top",
    smoothing: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Mean of the maps over time, moved along with the picture, in which a map counts "
            "half after so long; 0 shows each map as it is.",
        ),
    ] = 0.0,
    every: Annotated[
        int,
        typer.Option(
            min=1, help="Explain one frame of so many; those between show the map before."
        ),
    ] = 1,
    seconds: Annotated[float | None, typer.Option(help="Stop after so much of the video.")] = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live",
            help="Do not wait: play a file at its own pace, drop frames that come while one is "
            "in work. Cameras and RTSP always are.",
        ),
    ] = False,
    classifier: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Let the classifier itself say what it sees, where a run does not hold it.",
        ),
    ] = None,
    device: DeviceOption = Device.AUTO,
    debug: DebugOption = False,
) -> None:
    """Draw what the classifier looks at over a video, with the class and its probability.

    Sound is copied. Memory does not grow with the length. The bar is the mean probability over
    the last moments. How much the maps flicker is measured, with and without --smoothing. Ctrl-C or
    SIGTERM leaves a file of what was done, which plays.

    Example: apercu video runs/mobilenet walk.mp4 seen.mp4 --smoothing 0.2
    """
    from apercu.deploy.video.extra import check_installed

    check_installed()
    from apercu.deploy.video import VideoSettings, open_video, open_video_engine, write_video
    from apercu.deploy.video.writer import find_format

    settings = VideoSettings(target, smoothing, every, seconds)
    find_format(out)
    engine = open_video_engine(run, classifier, device.resolve_for(run))
    read = open_video(source, live=live)
    with graceful_signals():
        with show_progress() as report:
            done = write_video(engine, read, out, settings, lambda *far: report("frames", *far))
        _print_outcome(read, done, out)


def _print_outcome(read: VideoSource, done: VideoSummary, out: Path) -> None:
    """What was done; raises where it was ended early."""
    for line in find_losses(read, done):
        warn(line)
    if not out.exists():
        raise StoppedError("interrupted; nothing was kept")
    for line in describe_outcome(done, read.live):
        say(line)
    if done.stopped and not read.live:
        raise StoppedError(f"interrupted; {out} holds the first {done.seconds:.1f} s and plays")
    say(f"written: {out}")


def describe_outcome(done: VideoSummary, live: bool) -> list[str]:
    """What was done, in lines."""
    rate = done.frames / done.wall_seconds
    lines = [f"{done.frames} frames, {done.seconds:.1f} s, at {rate:.1f} frames per second"]
    if live:
        lines.append(f"dropped: {done.dropped} frames that came while another was in work")
    lines += [f"sound: {sound}" for sound in done.audio]
    if (found := done.flicker) is not None:
        calm = f", {found.smoothed:.4f} as shown; maps lag by {found.lag:.4f}" * (found.lag > 0)
        lines.append(f"flicker: {found.raw:.4f} as the maps come{calm}")
    return lines


def find_losses(source: VideoSource, done: VideoSummary) -> list[str]:
    """What of the source is not in the result."""
    found = {
        "stream(s) of subtitles left out": source.subtitle_streams,
        "stream(s) of sound left out, whose codec is unknown": source.unknown_audio,
        "packet(s) could not be decoded": source.damaged_packets + done.damaged_audio,
        "frame(s) left out whose time did not advance": source.standing,
    }
    lines = [f"{source.name}: {count} {words}" for words, count in found.items() if count]
    if source.early_end:
        lines.append(f"{source.name}: ended early ({source.early_end})")
    return lines
