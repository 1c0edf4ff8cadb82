"""Overlay videos: what a classifier looks at, frame by frame, in constant memory."""

from apercu.engines import Engine
from apercu.video.flow import Summary, VideoSettings, explain_video
from apercu.video.opening import open_engine
from apercu.video.places import open_video
from apercu.video.reading import Source

__all__ = [
    "Engine",
    "Source",
    "Summary",
    "VideoSettings",
    "explain_video",
    "open_engine",
    "open_video",
]
