"""What is live does not wait: a file at its own pace, and only the newest frame is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator

from apercu.deploy.video.lines import BoundedQueue
from apercu.deploy.video.source import Item, VideoPicture

SOUNDS = 512
"""Packets of sound that wait beside the newest frame, at most."""


def make_live_queue() -> BoundedQueue[Item]:
    """A line in which one frame waits, the newest; no sound is dropped."""
    return BoundedQueue(SOUNDS, lambda item: isinstance(item, VideoPicture))


def pace_items(
    items: Iterable[Item],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Item]:
    """The items of a file, each frame no sooner than it would be shown."""
    start = None
    for item in items:
        if isinstance(item, VideoPicture):
            now = clock()
            start = now - item.seconds if start is None else start
            if (wait := start + item.seconds - now) > 0:
                sleep(wait)
        yield item
