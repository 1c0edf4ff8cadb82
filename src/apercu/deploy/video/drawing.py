"""What is shown of a frame, drawn over it."""

from __future__ import annotations

from typing import final

from av import VideoFrame

from apercu.deploy.video.frame_explainer import OverlayContent
from apercu.deploy.video.heat import HeatOverlay
from apercu.deploy.video.label import Caption
from apercu.deploy.video.picture import FrameFormat


@final
class FrameOverlay:
    """Draws over frames; the heat of a map is made once, for all frames that show it.

    Args:
        look: of the frames.
    """

    def __init__(self, look: FrameFormat) -> None:
        self.look = look
        self._label = Caption(look.size, look.matrix)
        self._last: tuple[OverlayContent, HeatOverlay] | None = None

    def __call__(self, picture: VideoFrame, shown: OverlayContent) -> VideoFrame:
        """A new picture: heat, class and probability over the old one."""
        if self._last is None or self._last[0] is not shown:
            self._last = shown, HeatOverlay(shown.heat, self.look.size, self.look.matrix)
        drawn = self._last[1].draw_over(picture)
        self._label.draw_on(drawn, shown.title, shown.probability)
        return drawn
