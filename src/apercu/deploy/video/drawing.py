"""What is shown of a frame, drawn over it."""

from __future__ import annotations

from typing import final

from av import VideoFrame

from apercu.deploy.video.explaining import Shown
from apercu.deploy.video.heat import Heat
from apercu.deploy.video.label import Label
from apercu.deploy.video.picture import Look


@final
class Drawing:
    """Draws over frames; the heat of a map is made once, for all frames that show it.

    Args:
        look: of the frames.
    """

    def __init__(self, look: Look) -> None:
        self.look = look
        self._label = Label(look.size, look.matrix)
        self._last: tuple[Shown, Heat] | None = None

    def __call__(self, picture: VideoFrame, shown: Shown) -> VideoFrame:
        """A new picture: heat, class and probability over the old one."""
        if self._last is None or self._last[0] is not shown:
            self._last = shown, Heat(shown.heat, self.look.size, self.look.matrix)
        drawn = self._last[1].over(picture)
        self._label.draw(drawn, shown.title, shown.probability)
        return drawn
