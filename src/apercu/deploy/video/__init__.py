"""Overlay videos: what a classifier looks at, frame by frame, in constant memory."""

from apercu.deploy.inference import InferenceEngine
from apercu.deploy.video.explain_video import (
    VideoSettings,
    VideoSummary,
    open_video_engine,
    write_video,
)
from apercu.deploy.video.source import VideoSource, open_video

__all__ = [
    "InferenceEngine",
    "VideoSource",
    "VideoSummary",
    "VideoSettings",
    "write_video",
    "open_video_engine",
    "open_video",
]
