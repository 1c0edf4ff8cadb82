"""One Ctrl-C, or SIGTERM, ends the work in order; those that follow do not disturb the end."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def graceful_signals() -> Iterator[None]:
    """Within it the first of both signals raises `KeyboardInterrupt`, and the next are ignored."""

    def end(number: int, frame: FrameType | None) -> None:
        for one in STOP_SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, end) for one in STOP_SIGNALS}
    try:
        yield
    finally:
        for one, old in before.items():
            signal.signal(one, old)
