"""Threads joined by queues of a few items, so that memory stays constant."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from apercu.deploy.video.source import VideoItem, VideoPicture

T = TypeVar("T")

MAX_WAITING_AUDIO = 512
"""Largest number of packets of sound that wait beside the newest frame."""
JOIN_TIMEOUT = 2.0
"""Seconds that a closed producer gets to end; one that waits for a camera may need longer."""


class BoundedQueue(Generic[T]):
    """A queue between two threads that holds a limited number of items.

    Args:
        capacity: the number of items that may wait; the producer waits for room.
        is_droppable: tells which items never wait for room: each replaces a waiting item of the
            kind, which is dropped.

    Attributes:
        dropped: the number of items that were dropped.
    """

    def __init__(
        self, capacity: int, is_droppable: Callable[[T], bool] = lambda item: False
    ) -> None:
        self.capacity = capacity
        self.is_droppable = is_droppable
        self.dropped = 0
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._ended = self._stopped = False
        self._error: BaseException | None = None

    def put(self, item: T) -> bool:
        """Put an item into the queue; return False if the consumer has closed it."""
        with self._changed:
            if self.is_droppable(item):
                self._drop_oldest()
            else:
                self._changed.wait_for(lambda: self._stopped or len(self._items) < self.capacity)
            if self._stopped:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def finish(self, error: BaseException | None = None) -> None:
        """End the queue; the consumer gets the waiting items, then the error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Close the queue; waiting items are discarded and the producer stops."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._stopped or self._items or self._ended)
                if not self._items:
                    if self._error is not None:
                        raise self._error
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item

    def _drop_oldest(self) -> None:
        kept = [item for item in self._items if not self.is_droppable(item)]
        self.dropped += len(self._items) - len(kept)
        self._items = deque(kept)


@contextmanager
def run_producer(items: Iterable[T], queue: BoundedQueue[T]) -> Iterator[Iterator[T]]:
    """Yield an iterator over items that a thread produces ahead; its error is raised after them."""

    def produce() -> None:
        error = None
        try:
            for item in items:
                if not queue.put(item):
                    break
        except BaseException as raised:
            error = raised
        queue.finish(error)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        yield iter(queue)
    finally:
        queue.close()
        thread.join(JOIN_TIMEOUT)


@contextmanager
def run_consumer(
    consume: Callable[[T], None], queue: BoundedQueue[T]
) -> Iterator[Callable[[T], None]]:
    """Yield a function that passes items to a thread; all are consumed, even after Ctrl-C.

    An error of the thread is raised by that function, or at the end.
    """
    errors: list[BaseException] = []

    def consume_items() -> None:
        try:
            for item in queue:
                consume(item)
        except BaseException as error:
            errors.append(error)
            queue.close()

    def put(item: T) -> None:
        if not queue.put(item):
            raise errors[0]

    thread = threading.Thread(target=consume_items, daemon=True)
    thread.start()
    try:
        yield put
    finally:
        queue.finish()
        thread.join()
    if errors:
        raise errors[0]


def make_live_queue() -> BoundedQueue[VideoItem]:
    """Return a queue in which only the newest frame waits; no sound is dropped."""
    return BoundedQueue(MAX_WAITING_AUDIO, lambda item: isinstance(item, VideoPicture))


def pace_items(
    items: Iterable[VideoItem],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[VideoItem]:
    """Yield the items of a file, each frame no sooner than it would be shown."""
    start = None
    for item in items:
        if isinstance(item, VideoPicture):
            now = clock()
            start = now - item.seconds if start is None else start
            if (wait := start + item.seconds - now) > 0:
                sleep(wait)
        yield item
