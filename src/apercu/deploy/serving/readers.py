"""Bodies that are being read: where there is no room for one more, one that trickles gives way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, final

from apercu.deploy.serving.errors import BusyError

GRACE = 0.02
"""Seconds that every body is given, however many others wait to be read."""
TRICKLE = 1000
"""Bytes per second below which a body gives way; none of more than 30 kB is whole in half a minute
then."""

Come: TypeAlias = Callable[[], int]
"""How many bytes of a body have come."""


@final
@dataclass(frozen=True, eq=False)
class _Reading:
    """One body.

    Attributes:
        come: see there.
        clock: ends the reading.
        begun: by the loop's clock.
    """

    come: Come
    clock: asyncio.Timeout
    begun: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def pace(self, now: float) -> float:
        """Bytes per second."""
        return self.come() / (now - self.begun)


@final
class Readers:
    """Room for so many bodies at a time. Whoever sends a byte now and then shuts nobody out.

    Bodies that come fast enough are never given up for another: where too many of them come, the
    last ones are refused.

    Args:
        most: how many.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._readings: list[_Reading] = []

    @property
    def taken(self) -> int:
        """How many are being read."""
        return len(self._readings)

    @asynccontextmanager
    async def take(self, come: Come) -> AsyncIterator[None]:
        """Room to read a body, which the slowest of those that trickle leaves where there is none.

        Raises:
            BusyError: all places are taken, and none of the others trickles; or this one did when
                others wanted to be read.
        """
        self._make_room()
        try:
            async with asyncio.timeout(None) as clock:
                reading = _Reading(come, clock)
                self._readings.append(reading)
                try:
                    yield
                finally:
                    if reading in self._readings:
                        self._readings.remove(reading)
        except TimeoutError:
            if not clock.expired():
                raise
            raise BusyError(
                "door: others wanted to be read while this body came too slowly; send the image "
                "again later"
            ) from None

    def _make_room(self) -> None:
        if self.taken < self.most:
            return
        now = asyncio.get_running_loop().time()
        begun = [one for one in self._readings if now - one.begun >= GRACE]
        slowest = min(begun, key=lambda one: one.pace(now), default=None)
        if slowest is None or slowest.pace(now) >= TRICKLE:
            raise BusyError(f"door: all {self.most} places are taken; send the image again later")
        self._readings.remove(slowest)
        slowest.clock.reschedule(now)
