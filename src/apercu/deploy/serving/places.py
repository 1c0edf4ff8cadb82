"""How much callers may take up: all together, and each of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import final

from apercu.deploy.serving.errors import BusyError, CrowdError, TooLargeError
from apercu.deploy.serving.readers import Come, Readers


@final
class Places:
    """Room for so many at a time.

    Args:
        name: of the room.
        most: how many.
    """

    def __init__(self, name: str, most: int) -> None:
        self.name = name
        self.most = most
        self.taken = 0

    def check(self, count: int = 1) -> None:
        """Raises BusyError where there are not so many places, TooLargeError where never."""
        if count > self.most:
            raise TooLargeError(
                f"{self.name}: expected at most {self.most} images in a request, got {count}; "
                "send them in parts"
            )
        if self.taken + count > self.most:
            raise BusyError(
                f"{self.name}: all {self.most} places are taken; send the image again later"
            )

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Takes places, and gives them back.

        Raises:
            BusyError: there are not so many.
            TooLargeError: there are never so many.
        """
        self.check(count)
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


@final
class Callers:
    """How many images each address may have here at a time.

    Args:
        most: how many; None lets each have as many as there is room for.
    """

    def __init__(self, most: int | None = None) -> None:
        self.most = most
        self.held: Counter[str] = Counter()

    @contextmanager
    def take(self, address: str, count: int = 1) -> Iterator[None]:
        """Counts the images of an address.

        Raises:
            CrowdError: it has too many.
            TooLargeError: it never may have so many.
        """
        if self.most is not None and count > self.most:
            raise TooLargeError(
                f"caller: expected at most {self.most} images in a request, got {count}; "
                "send them in parts"
            )
        if self.most is not None and self.held[address] + count > self.most:
            raise CrowdError(
                f"caller: expected at most {self.most} images at a time from one address; "
                "send the image again when another is answered"
            )
        self.held[address] += count
        try:
            yield
        finally:
            self.held[address] -= count
            if not self.held[address]:
                del self.held[address]


@final
class Door:
    """What a request passes: its caller's share, being read, the queue.

    Args:
        most: images that wait or are in work, and requests that are being read.
        each: images of one address.
    """

    def __init__(self, most: int, each: int | None = None) -> None:
        self.callers = Callers(each)
        self.readers = Readers(most)
        self.queue = Places("queue", most)

    @asynccontextmanager
    async def read(self, come: Come) -> AsyncIterator[None]:
        """While a body is read, however slowly, it takes no place in the queue.

        Args:
            come: how many bytes of it have.

        Raises:
            BusyError: the queue is full before this one is read; or see `Readers`.
        """
        self.queue.check()
        async with self.readers.take(come):
            yield
