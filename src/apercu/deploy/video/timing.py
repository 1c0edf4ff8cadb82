"""Times of frames and packets that advance, whatever the file says."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, final

RESTART = Fraction(1, 2)
"""Seconds by which a time must go back before it counts as a new beginning."""
MAX_LEAP = 10
"""Seconds by which a time may run ahead in a format whose times are allowed to leap."""


@final
class Timeline:
    """Puts the frames or the packets of one stream in time, one after the other.

    An item without a time follows the one before. If the times begin again, as they do where
    recordings were joined, the items from there on follow the one before, too.

    Args:
        step: the duration of an item that does not say, in seconds.
        may_leap: whether times that run far ahead are a new beginning, as in MPEG streams.

    Attributes:
        restarts: how often the times began again.
        untimely: the number of items whose time did not advance.
    """

    def __init__(self, step: Fraction, may_leap: bool = False) -> None:
        self.step, self.may_leap = step, may_leap
        self.restarts = self.untimely = 0
        self._shift = self._end = Fraction(0)
        self._last: Fraction | None = None

    def place(self, time: Fraction | None, duration: Fraction) -> Fraction:
        """Return the time of the next item, in seconds; it is counted if it does not advance.

        Args:
            time: the time that the file says, in seconds; None if it says none.
            duration: the duration that the file says, in seconds; 0 if it says none.

        Returns:
            The time of the item.
        """
        placed = self._end if time is None else time + self._shift
        if self._last is not None:
            if placed < self._last - RESTART or (self.may_leap and placed > self._end + MAX_LEAP):
                self._shift += self._end - placed
                placed = self._end
                self.restarts += 1
            if placed <= self._last:
                self.untimely += 1
                return placed
        self._last, self._end = placed, placed + (duration or self.step)
        return placed


@final
class PacketClock:
    """Gives the packets of a written stream times that every container takes: none comes twice.

    Args:
        stream: the stream, whose container has written its header.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._last: int | None = None

    def adjust(self, packet: Any) -> None:
        """Convert the times of a packet to the unit of the stream, and let them advance."""
        unit = self._stream.time_base
        scale = Fraction(packet.time_base) / unit
        dts = round(packet.dts * scale)
        if self._last is not None and dts <= self._last:
            dts = self._last + 1
        pts = dts if packet.pts is None else max(dts, round(packet.pts * scale))
        duration = round((packet.duration or 0) * scale)
        packet.time_base = unit
        packet.dts, packet.pts, packet.duration = dts, pts, duration
        self._last = dts
