"""Where videos come from: files, cameras and addresses."""

from __future__ import annotations

from pathlib import Path

import av

from apercu.deploy.video.reading import WAIT, VideoSource, describe_error
from apercu.errors import ImageError

CAMERA, CAMERA_FORMAT = "/dev/video", "v4l2"
RTSP = ("rtsp://", "rtsps://")
PICTURE, PICTURES = "image2", "_pipe"
"""How FFmpeg calls containers of single pictures, or how these names end."""
TEXT = "tty"
"""What FFmpeg would draw letter by letter."""


def is_live(name: str) -> bool:
    """Whether it can only be watched as it comes: a camera, or an RTSP address."""
    return name.startswith((CAMERA, *RTSP))


def open_video(name: str, *, live: bool = False) -> VideoSource:
    """Opens a file, a camera (`/dev/video0`) or an address (RTSP, HTTP, TCP …).

    Raises:
        ImageError: it is missing, no video, or does not answer.
    """
    address = "://" in name
    if not address and not Path(name).exists():
        raise ImageError(f"{name}: no such file, camera or address")
    try:
        container = av.open(
            name,
            format=CAMERA_FORMAT if name.startswith(CAMERA) else None,
            options={"rtsp_transport": "tcp"} if name.startswith(RTSP) else {},
            timeout=WAIT if address else None,
        )
    except (av.error.FFmpegError, ValueError) as error:
        raise ImageError(f"{name}: expected a video ({describe_error(error)})") from error
    kind = container.format.name
    if kind == TEXT:
        raise ImageError(f"{name}: expected a video, got text")
    if kind == PICTURE or kind.endswith(PICTURES):
        raise ImageError(f"{name}: expected a video, got a picture; see apercu explain")
    return VideoSource(name, container, live or is_live(name))
