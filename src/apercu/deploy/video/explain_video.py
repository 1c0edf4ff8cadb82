"""`apercu.explain_video`: draw what a classifier looks at over a video."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from apercu.classifiers import Classifier, InputSpec
from apercu.classifiers.names import ClassWord, read_class_word
from apercu.deploy.inference import InferenceEngine, open_engine
from apercu.deploy.video.pipeline import VideoSettings, VideoSummary, write_video
from apercu.deploy.video.source import VideoSource, check_video, open_video
from apercu.deploy.video.writer import find_format
from apercu.errors import RunError
from apercu.explain.options import TOP
from apercu.explainers.base import MaskingExplainer
from apercu.progress import CountCallback, name_progress, open_progress
from apercu.verdicts import GuardChoice

CHANNELS = (1, 3)
"""Numbers of channels that can be made of the pictures of a video: grey, or colours."""


def explain_video(
    explainer: str | Path | MaskingExplainer[Any, Any] | InferenceEngine,
    source: str | Path | VideoSource,
    out: str | Path,
    *,
    target: ClassWord | None = TOP,
    smoothing: float = 0.0,
    every: int = 1,
    seconds: float | None = None,
    live: bool = False,
    classifier: str | Path | Classifier | None = None,
    device: str = "auto",
    trust: bool = False,
    guard: GuardChoice = None,
    progress: CountCallback | bool | None = None,
) -> VideoSummary:
    """Draw what a classifier looks at over a video, as `apercu video` does.

    The class and its probability are written on each frame, and sound is copied. Memory does not
    grow with the length of the video. Ctrl-C ends it early, and leaves a file that plays.

    >>> import apercu
    >>> summary = apercu.explain_video(  # doctest: +SKIP
    ...     "runs/mobilenet", "walk.mp4", "explained.mp4", smoothing=0.2
    ... )
    >>> summary.frames, summary.flicker.smoothed < summary.flicker.raw  # doctest: +SKIP
    (250, True)

    Args:
        explainer: the folder of a trained mask explainer or of its export, or an opened one.
        source: a video file, a camera (`/dev/video0`), an address (`rtsp://…`), or an opened video.
        out: a new `.mp4`, `.mov`, `.mkv` or `.webm` file.
        target: `top` or None for the class predicted most over the last moments, or a class by
            name, identifier or index.
        smoothing: the half-life of the mean of maps in seconds; 0 shows each map as it is.
        every: one frame of this many is explained; the others show the map before.
        seconds: the seconds after which the result ends; None for the whole video.
        live: whether frames that arrive while another one is explained are dropped; cameras and
            RTSP always are live.
        classifier: the explained classifier or its SPEC, if it predicts the classes and the
            explainer does not hold it.
        device: `auto`, `cpu`, `cuda` or `mps`, where the explainer computes; an export takes `auto`
            or `cpu`, and with `auto` an opened explainer stays where it is.
        trust: whether the folder or a card may name a factory, whose code is run.
        guard: a guard or its folder, which judges each explained frame; `none` for none, None for
            the one that the card of the classifier names. An export holds its own.
        progress: whether to show how far the work is, or a function that receives the number of
            frames that are written, and about that of all; None shows it in notebooks only.

    Returns:
        What was written, and what it took.

    Raises:
        RunError: the folder is damaged, or explains images that no video has.
        ClassifierError: the classifier cannot be opened.
        TargetError: there is no such class.
        ImageError: the source is missing, not a video, or does not answer.
        ConfigError: a number is out of range, or an export is given a classifier or a GPU.
        OutputError: the file cannot be written, or exists already.
    """
    out = Path(out)
    word = TOP if target is None else read_class_word(target)
    settings = VideoSettings(word, smoothing, every, seconds)
    find_format(out)
    if not isinstance(source, VideoSource):
        check_video(str(source))
    if isinstance(explainer, InferenceEngine):
        engine = explainer
        _check_input("explainer", engine.input)
    else:
        run = explainer if isinstance(explainer, MaskingExplainer) else Path(explainer)
        engine = open_video_engine(run, classifier, device, trust=trust, guard=guard)
    if not isinstance(source, VideoSource):
        source = open_video(str(source), live=live)
    with open_progress(name_progress(progress)) as report:
        return write_video(engine, source, out, settings, partial(report, "frames"))


def open_video_engine(
    run: Path | MaskingExplainer[Any, Any],
    classifier: str | Path | Classifier | None = None,
    device: str = "auto",
    *,
    trust: bool = False,
    guard: GuardChoice = None,
) -> InferenceEngine:
    """Open a run or an export, whose threads leave the cores to other work while they wait.

    Args:
        run: the folder, or a mask explainer.
        classifier: the explained classifier or its SPEC, for a run that does not hold it.
        device: where a run computes; see `open_engine`.
        trust: whether the folder or a card may name a factory, whose code is run.
        guard: a guard or its folder, which judges each prediction; see `open_engine`.

    Returns:
        The engine.

    Raises:
        RunError: the folder explains images that no video has, or as `open_engine`.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier or a GPU.
    """
    engine = open_engine(run, classifier, device, spin=False, trust=trust, guard=guard)
    _check_input(run if isinstance(run, Path) else "explainer", engine.input)
    return engine


def _check_input(name: str | Path, spec: InputSpec) -> None:
    """Raise RunError if an explainer takes images that no video has."""
    if spec.channels not in CHANNELS or spec.takes_raw_counts:
        kind = "raw counts" if spec.takes_raw_counts else f"{spec.channels} channels"
        raise RunError(f"{name}: it explains images of {kind}, which a video does not have")
