"""Overlay videos: what a classifier looks at, frame by frame, in constant memory."""

from __future__ import annotations

from apercu.extras import require_extra

require_extra("video", "video")  # the modules below import PyAV

from apercu.deploy.inference import InferenceEngine  # noqa: E402
from apercu.deploy.video.explain_video import explain_video, open_video_engine  # noqa: E402
from apercu.deploy.video.pipeline import (  # noqa: E402
    VideoSettings,
    VideoSummary,
    write_video,
)
from apercu.deploy.video.source import VideoSource, open_video  # noqa: E402

__all__ = [
    "InferenceEngine",
    "VideoSettings",
    "VideoSource",
    "VideoSummary",
    "explain_video",
    "open_video",
    "open_video_engine",
    "write_video",
]
