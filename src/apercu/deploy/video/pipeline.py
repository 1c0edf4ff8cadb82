"""Explain the frames of a video and write them with overlays, in threads of bounded memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeAlias

from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.audio import AudioTrack
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
from apercu.deploy.video.writer import VideoWriter, find_format
from apercu.errors import ConfigError
from apercu.explain.options import TOP
from apercu.progress import CountCallback
from apercu.run_record import lock_output

QUEUE_SIZE = 8
"""Largest number of frames and packets of sound that wait between two threads."""

_WrittenItem: TypeAlias = AudioPacket | tuple[VideoPicture, OverlayContent]
"""What is ready to be written."""


@dataclass(frozen=True)
class VideoSettings:
    """Settings of a video.

    Attributes:
        target: `top` for the class predicted most over the last moments, or a class by name,
            identifier or index.
        smoothing: the half-life of the mean of maps in seconds; 0 shows each map as it is.
        every: one frame of this many is explained; the others show the map before.
        seconds: the seconds after which the result ends; None for the whole video.

    Raises:
        ConfigError: a number is out of range.
    """

    target: str | int = TOP
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
    """What was written, and what it took.

    Attributes:
        frames: the number of frames that were written.
        seconds: the time at which the last of them is shown.
        explained: the number of frames that were explained.
        dropped: the number of frames that arrived while another one was explained.
        stopped: whether Ctrl-C ended the work early.
        wall_seconds: the seconds of the whole work.
        flicker: the flicker of the maps; None if no two maps could be compared.
        audio: whether each stream of sound was copied or encoded again.
        damaged_audio: the number of packets of sound that could not be encoded again.
        live: whether frames were dropped rather than delayed.
        warnings: one line about each part of the source that is missing in the result.
        alarms: the number of explained frames whose class should not be believed, by the guard, or
            that it could not judge; None without a guard.
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
    live: bool
    warnings: tuple[str, ...]
    alarms: int | None = None


def write_video(
    engine: InferenceEngine,
    source: VideoSource,
    out: Path,
    settings: VideoSettings,
    progress: CountCallback = lambda count, total: None,
) -> VideoSummary:
    """Write a video with overlays; Ctrl-C ends it early, and leaves a file that plays.

    Memory does not grow with the length of the video. From a live source the newest frame is
    explained, and frames that arrive meanwhile are dropped.

    Args:
        engine: explains the frames.
        source: the frames and the sound; they are read to the end.
        out: the file that is written.
        settings: the class, the smoothing, and how many frames are explained.
        progress: is called with the number of frames that are written, and about that of all.

    Returns:
        What was written, and what it took.

    Raises:
        TargetError: there is no such class.
        RunError: another process writes the file.
        OutputError: the file cannot be written, or exists already.
    """
    fixed = None if settings.target == TOP else engine.names.find_index(settings.target)
    explainer = FrameExplainer(engine, StableClass(fixed), MapSmoother(settings.smoothing))
    pipeline = VideoPipeline(explainer, source, settings, progress)
    start, stopped = time.perf_counter(), False
    tracks: tuple[AudioTrack, ...] = ()
    writer = None
    try:
        with lock_output(out), VideoWriter(out, find_format(out), source) as writer:
            tracks = tuple(writer.tracks.values())
            pipeline.run(writer)
    except KeyboardInterrupt:
        stopped = True
    damaged_audio = sum(track.damaged_packets for track in tracks)
    return VideoSummary(
        frames=pipeline.frames,
        seconds=pipeline.seconds,
        explained=explainer.explained,
        dropped=pipeline.incoming.dropped,
        stopped=stopped,
        wall_seconds=time.perf_counter() - start,
        flicker=explainer.meter.summary,
        audio=tuple(map(str, tracks)),
        damaged_audio=damaged_audio,
        live=source.live,
        warnings=tuple(_list_losses(source, damaged_audio, writer.unwritten if writer else 0)),
        alarms=explainer.alarms if engine.has_guard else None,
    )


class VideoPipeline:
    """Moves frames and sound through the threads: one reads, one explains, one writes.

    Args:
        frame_explainer: explains a frame.
        source: the frames and the sound.
        settings: which frames are explained, and when the result ends.
        progress: is called with the number of frames that are written, and about that of all.

    Attributes:
        incoming: the queue of items that were read.
        outgoing: the queue of items that are ready to be written.
        frames: the number of frames that are written.
        seconds: the time at which the last of them is shown.
    """

    def __init__(
        self,
        frame_explainer: FrameExplainer,
        source: VideoSource,
        settings: VideoSettings,
        progress: CountCallback,
    ) -> None:
        self.frame_explainer, self.source = frame_explainer, source
        self.settings, self.progress = settings, progress
        self.incoming: BoundedQueue[VideoItem] = (
            make_live_queue() if source.live else BoundedQueue(QUEUE_SIZE)
        )
        self.outgoing: BoundedQueue[_WrittenItem] = BoundedQueue(1 if source.live else QUEUE_SIZE)
        self.frames, self.seconds = 0, 0.0
        self._overlay = FrameOverlay(source.frame_format)

    def run(self, writer: VideoWriter) -> None:
        """Process every item, to the end.

        Args:
            writer: the opened file.
        """
        items = self.source.read_items()
        if self.source.live and self.source.is_file:
            items = pace_items(items)
        with (
            run_consumer(partial(self._write, writer), self.outgoing) as put,
            run_producer(items, self.incoming) as incoming,
        ):
            for item in self._explain_frames(incoming):
                put(item)

    def _explain_frames(self, items: Iterator[VideoItem]) -> Iterator[_WrittenItem]:
        count, content = 0, None
        for item in items:
            if isinstance(item, VideoPicture):
                if self._is_past_end(item.seconds):
                    return
                if content is None or count % self.settings.every == 0:
                    content = self.frame_explainer(item)
                count += 1
                yield item, content
            elif not self._is_past_end(item.seconds):
                yield item

    def _is_past_end(self, seconds: float) -> bool:
        return self.settings.seconds is not None and seconds >= self.settings.seconds

    def _write(self, writer: VideoWriter, item: _WrittenItem) -> None:
        """Draw and encode a frame, or copy a packet of sound."""
        if isinstance(item, AudioPacket):
            writer.write_audio(item.packet)
            return
        frame, content = item
        writer.write_frame(self._overlay(frame.picture, content))
        self.frames, self.seconds = self.frames + 1, frame.seconds
        total = self.source.frames
        self.progress(self.frames, max(self.frames, total) if total > 0 else 0)


def _list_losses(source: VideoSource, damaged_audio: int, unwritten: int) -> list[str]:
    """Return one line about each part of a source that is missing or changed in the result."""
    counts = {
        "stream(s) of subtitles left out": source.subtitle_streams,
        "stream(s) of sound left out, whose codec is unknown": source.unknown_audio,
        "further stream(s) of moving pictures left out": source.other_pictures,
        "packet(s) could not be decoded": source.damaged_packets + damaged_audio,
        "packet(s) left out that the file cannot hold": unwritten,
        "frame(s) left out whose time did not advance": source.untimely_frames,
        "packet(s) of sound moved on whose time did not advance": source.untimely_audio,
        "time(s) the time began again; what follows was put after it": source.restarts,
        "frame(s) of another size fitted to that of the first": source.resized_frames,
    }
    lines = [f"{source.name}: {count} {words}" for words, count in counts.items() if count]
    if source.has_high_dynamic_range:
        lines.append(f"{source.name}: HDR colours, explained and shown as they are stored")
    if source.early_end:
        lines.append(f"{source.name}: ended early ({source.early_end})")
    return lines
