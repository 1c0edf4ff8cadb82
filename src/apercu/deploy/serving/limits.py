"""How many images and bytes clients may have here at a time: all together, and each of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import TypeAlias, final

from apercu.deploy.serving.errors import BusyError, TooLargeError, TooManyRequestsError

UPLOAD_GRACE = 0.02
"""Seconds that every body is given, however many others wait to be read."""
MIN_UPLOAD_RATE = 1000
"""Bytes per second. A slower body gives up its slot when another one waits; at this rate no
body of more than 30 kB is complete within half a minute."""
FREE_BYTES, BODIES = 1_000_000, 8
"""Bytes of each request that are not counted; largest requests for which there is memory."""
ByteCounter: TypeAlias = Callable[[], int]
"""Returns how many bytes of a body have arrived."""


@final
class QueueSlots:
    """A limit on the images that wait or are being explained.

    Args:
        capacity: number of images.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.taken = 0

    def check(self, count: int = 1) -> None:
        """Check that there are enough free slots.

        Raises:
            BusyError: there are not enough.
            TooLargeError: there are never enough.
        """
        if count > self.capacity:
            raise TooLargeError(
                f"queue: expected at most {self.capacity} images in a request, got {count}; "
                "send them in parts"
            )
        if self.taken + count > self.capacity:
            raise BusyError(
                f"queue: full, {self.taken} of at most {self.capacity} images are here already; "
                "send the image again later"
            )

    @contextmanager
    def take(self, count: int = 1) -> Iterator[None]:
        """Hold slots until the block ends.

        Raises:
            BusyError: there are not enough.
            TooLargeError: there are never enough.
        """
        self.check(count)
        self.taken += count
        try:
            yield
        finally:
            self.taken -= count


@final
class PerClientLimit:
    """A limit on the images that each address has here.

    Args:
        images: number of images; None sets no limit.
    """

    def __init__(self, images: int | None = None) -> None:
        self.images = images
        self.counts: Counter[str] = Counter()

    def check(self, count: int) -> None:
        """Check that an address may have so many images at all.

        Raises:
            TooLargeError: no address may.
        """
        if self.images is not None and count > self.images:
            raise TooLargeError(
                f"caller: expected at most {self.images} images in a request, got {count}; "
                "send them in parts"
            )

    @contextmanager
    def take(self, address: str, count: int = 1) -> Iterator[None]:
        """Count images of an address until the block ends.

        Raises:
            TooManyRequestsError: the address has too many.
            TooLargeError: no address may have so many.
        """
        self.check(count)
        if self.images is not None and self.counts[address] + count > self.images:
            noun = "image" if self.images == 1 else "images"
            raise TooManyRequestsError(
                f"caller: expected at most {self.images} {noun} at a time from one address; "
                "send the image again when another is answered"
            )
        self.counts[address] += count
        try:
            yield
        finally:
            self.counts[address] -= count
            if not self.counts[address]:
                del self.counts[address]


@final
class MemoryBudget:
    """A limit on the bytes of all bodies that are here, however many clients there are.

    The first bytes of each body are free, so that large bodies cannot shut small ones out.

    Args:
        capacity: bytes of all bodies together, beyond their free ones.
        free: bytes of each body that are not counted.
    """

    def __init__(self, capacity: int, free: int = FREE_BYTES) -> None:
        self.capacity = capacity
        self.free = free
        self.taken = 0

    @contextmanager
    def hold(self) -> Iterator[Callable[[int], None]]:
        """Hold the bytes of a body until the block ends.

        Yields:
            A function that is called with the bytes that have come; it raises BusyError where
            they are too many for now.
        """
        size, charge = 0, 0

        def add(count: int) -> None:
            nonlocal size, charge
            size += count
            more = max(0, size - self.free) - charge
            if more > self.capacity - self.taken:
                raise BusyError(
                    "memory: all requests together need more memory than the server may use; send "
                    "the image again later"
                )
            charge += more
            self.taken += more

        try:
            yield add
        finally:
            self.taken -= charge


@dataclass(frozen=True, eq=False)
class _Upload:
    """A body that is being read.

    Attributes:
        arrived: counts its bytes.
        timeout: ends the reading.
        started: when its reading began, by the clock of the event loop.
    """

    arrived: ByteCounter
    timeout: asyncio.Timeout
    started: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    def rate(self, now: float) -> float:
        """Return the bytes per second so far."""
        return self.arrived() / (now - self.started)


@final
class UploadSlots:
    """A limit on the bodies that are read at the same time; slow clients cannot block the others.

    Where no slot is free, the slowest body below `MIN_UPLOAD_RATE` gives up its slot. Faster bodies
    are never given up: where there are too many of them, the newest request is refused.

    Args:
        capacity: number of bodies.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._uploads: list[_Upload] = []

    @property
    def taken(self) -> int:
        """Number of bodies that are being read."""
        return len(self._uploads)

    @asynccontextmanager
    async def take(self, arrived: ByteCounter) -> AsyncIterator[None]:
        """Hold a slot while a body is read.

        Args:
            arrived: counts the bytes of the body.

        Raises:
            BusyError: no slot is free and no other body is slow; or this body was slow while
                another one wanted its slot.
        """
        self._free_one()
        try:
            async with asyncio.timeout(None) as timeout:
                upload = _Upload(arrived, timeout)
                self._uploads.append(upload)
                try:
                    yield
                finally:
                    if upload in self._uploads:
                        self._uploads.remove(upload)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise BusyError(
                "uploads: this body came too slowly while others waited to be read; send the "
                "image again later"
            ) from None

    def _free_one(self) -> None:
        if self.taken < self.capacity:
            return
        now = asyncio.get_running_loop().time()
        old = [upload for upload in self._uploads if now - upload.started >= UPLOAD_GRACE]
        slowest = min(old, key=lambda upload: upload.rate(now), default=None)
        if slowest is None or slowest.rate(now) >= MIN_UPLOAD_RATE:
            raise BusyError(
                f"uploads: full, {self.capacity} requests are being received already; "
                "send the image again later"
            )
        self._uploads.remove(slowest)
        slowest.timeout.reschedule(now)


@final
class AdmissionControl:
    """All limits that a request passes: those of its client, of uploads and of the queue.

    Args:
        capacity: images that wait or are being explained; and bodies that are read at a time.
        per_client: images of one address; None sets no limit.
        memory: bytes of all bodies together.
    """

    def __init__(
        self, capacity: int, per_client: int | None = None, memory: int = BODIES * 32_000_000
    ) -> None:
        self.clients = PerClientLimit(per_client)
        self.memory = MemoryBudget(memory)
        self.uploads = UploadSlots(capacity)
        self.queue = QueueSlots(capacity)

    @asynccontextmanager
    async def upload(self, arrived: ByteCounter) -> AsyncIterator[None]:
        """Read a body within the block; meanwhile it takes no place in the queue.

        Args:
            arrived: counts the bytes of the body.

        Raises:
            BusyError: the queue is full already; or see `UploadSlots`.
        """
        self.queue.check()
        async with self.uploads.take(arrived):
            yield
