"""A folder → the engine that explains frames."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from apercu.classifiers import InputSpec
from apercu.deploy import inference as engines
from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.frame_explainer import FrameExplainer, OverlayContent, StableClass
from apercu.deploy.video.motion import Flicker, MapSmoother
from apercu.deploy.video.overlay import FrameOverlay
from apercu.deploy.video.queues import (
    BoundedQueue,
    make_live_queue,
    pace_items,
    run_consumer,
    run_producer,
)
from apercu.deploy.video.source import AudioPacket, VideoItem, VideoPicture, VideoSource
from apercu.deploy.video.writer import AudioTrack, VideoWriter, find_format
from apercu.errors import ConfigError, RunError

CHANNELS = (1, 3)
"""What can be made of the pictures of a video: grey, or colours."""


def open_video_engine(
    run: Path, classifier: str | Path | None = None, device: str = "cpu"
) -> InferenceEngine:
    """Opens a run or an export, whose threads leave the cores to other work when they rest.

    Args:
        run: the folder.
        classifier: SPEC of the explained classifier, for a run that does not hold it.
        device: where a run computes.

    Raises:
        RunError: it explains images that no video has, or as `engines.open_engine`.
        ClassifierError: the classifier cannot be opened.
        ConfigError: an export is given a classifier or a GPU.
    """
    engine = engines.open_engine(run, classifier, device, spin=False)
    _check_input(run, engine.input)
    return engine


def _check_input(run: Path, spec: InputSpec) -> None:
    if spec.channels not in CHANNELS or spec.takes_raw_counts:
        kind = "raw counts" if spec.takes_raw_counts else f"{spec.channels} channels"
        raise RunError(f"{run}: it explains images of {kind}, which a video does not have")


TOP = "top"
QUEUE_SIZE = 8
"""Frames and sounds that wait between two threads, at most."""

Progress: TypeAlias = Callable[[int, int], None]
"""Called with how many frames are written, and how many there are, about."""
_WrittenItem: TypeAlias = AudioPacket | tuple[VideoPicture, OverlayContent]
"""What is ready to be written."""


@dataclass(frozen=True)
class VideoSettings:
    """What is asked for.

    Args:
        target: `top`, or a class by name, identifier or index.
        smoothing: half-life of the mean of maps, in seconds; 0 shows each map as it is.
        every: one frame of so many is explained; the others show the map before.
        seconds: only so many; None goes to the end.

    Raises:
        ConfigError: a number is out of range.
    """

    target: str = TOP
    smoothing: float = 0.0
    every: int = 1
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every: expected 1 or more, got {self.every}")
        if self.seconds is not None and not self.seconds > 0:
            raise ConfigError(f"seconds: expected more than 0, got {self.seconds}")


@dataclass(frozen=True)
class VideoSummary:
    """What was done.

    Attributes:
        frames: that were written.
        seconds: when the last of them is shown.
        explained: how many were.
        dropped: frames that came while another was in work.
        stopped: whether Ctrl-C ended it.
        took: seconds that it took.
        flicker: of the maps; None where there were no two to compare.
        sounds: what became of each stream of sound.
        damaged: packets of sound that could not be decoded, to be encoded again.
    """

    frames: int
    seconds: float
    explained: int
    dropped: int
    stopped: bool
    wall_seconds: float
    flicker: Flicker | None
    audio: tuple[str, ...]
    damaged_audio: int


def write_video(
    engine: InferenceEngine,
    source: VideoSource,
    out: Path,
    settings: VideoSettings,
    progress: Progress = lambda done, total: None,
) -> VideoSummary:
    """Writes the video with overlays; Ctrl-C ends it early, and leaves a file that plays.

    Memory does not grow with the length of the video. From a live source the newest frame is
    explained, and frames that came meanwhile are dropped.

    Args:
        engine: explains the frames.
        source: of frames and sounds; it is read to its end.
        out: the file.
        settings: what is asked for.
        progress: told how far it is.

    Raises:
        TargetError: there is no such class.
        OutputError: the file cannot be written, or exists.
    """
    fixed = None if settings.target == TOP else engine.names.find_index(settings.target)
    explaining = FrameExplainer(engine, StableClass(fixed), MapSmoother(settings.smoothing))
    work = VideoPipeline(explaining, source, settings, progress)
    start, stopped = time.perf_counter(), False
    tracks: tuple[AudioTrack, ...] = ()
    try:
        with VideoWriter(out, find_format(out), source) as writer:
            tracks = tuple(writer.tracks.values())
            work.run(writer)
    except KeyboardInterrupt:
        stopped = True
    return VideoSummary(
        work.frames,
        work.seconds,
        explaining.explained,
        work.incoming.dropped,
        stopped,
        time.perf_counter() - start,
        explaining.meter.summary,
        tuple(map(str, tracks)),
        sum(track.damaged_packets for track in tracks),
    )


class VideoPipeline:
    """The way of the items through the threads, and what is counted on it."""

    def __init__(
        self,
        frame_explainer: FrameExplainer,
        source: VideoSource,
        settings: VideoSettings,
        progress: Progress,
    ) -> None:
        self.explaining, self.source = frame_explainer, source
        self.settings, self.progress = settings, progress
        self.incoming: BoundedQueue[VideoItem] = (
            make_live_queue() if source.live else BoundedQueue(QUEUE_SIZE)
        )
        self.outgoing: BoundedQueue[_WrittenItem] = BoundedQueue(1 if source.live else QUEUE_SIZE)
        self.frames, self.seconds = 0, 0.0
        self._overlay = FrameOverlay(source.frame_format)

    def run(self, writer: VideoWriter) -> None:
        """Every item, to the end."""
        items = self.source.read_items()
        if self.source.live and self.source.is_file:
            items = pace_items(items)
        with (
            run_consumer(partial(self._write, writer), self.outgoing) as leave,
            run_producer(items, self.incoming) as coming,
        ):
            for done in self._explain_frames(coming):
                leave(done)

    def _explain_frames(self, items: Iterator[VideoItem]) -> Iterator[_WrittenItem]:
        taken, shown = 0, None
        for item in items:
            if isinstance(item, VideoPicture):
                if self._is_past_end(item.seconds):
                    return
                if shown is None or taken % self.settings.every == 0:
                    shown = self.explaining(item)
                taken += 1
                yield item, shown
            elif not self._is_past_end(item.seconds):
                yield item

    def _is_past_end(self, seconds: float) -> bool:
        return self.settings.seconds is not None and seconds >= self.settings.seconds

    def _write(self, writer: VideoWriter, item: _WrittenItem) -> None:
        """Draws and encodes a frame, or copies a sound."""
        if isinstance(item, AudioPacket):
            writer.write_audio(item.packet)
            return
        frame, shown = item
        writer.write_frame(self._overlay(frame.picture, shown))
        self.frames, self.seconds = self.frames + 1, frame.seconds
        self.progress(self.frames, max(self.frames, self.source.frames))
