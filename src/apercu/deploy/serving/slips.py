"""Which orders are still wanted, in memory that the web process shares with the workers."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.sharedctypes import RawArray
from typing import final


@dataclass(frozen=True)
class Slip:
    """Goes with an order.

    Args:
        place: of the slip.
        number: that stands there as long as the order is wanted; none comes twice.
    """

    place: int
    number: int


@final
class Slips:
    """A slip for each order. Workers leave alone what nobody waits for any more.

    Args:
        most: orders at a time.
    """

    def __init__(self, most: int) -> None:
        self.numbers: ctypes.Array[ctypes.c_ulonglong] = RawArray(ctypes.c_ulonglong, most)
        self._free = list(range(most))
        self._last = 0

    @contextmanager
    def take(self) -> Iterator[Slip]:
        """A slip, which holds until the block ends, however it ends."""
        self._last += 1
        slip = Slip(self._free.pop(), self._last)
        self.numbers[slip.place] = slip.number
        try:
            yield slip
        finally:
            self.numbers[slip.place] = 0
            self._free.append(slip.place)

    def hold(self, slip: Slip) -> bool:
        """Whether the order is still wanted."""
        return self.numbers[slip.place] == slip.number
