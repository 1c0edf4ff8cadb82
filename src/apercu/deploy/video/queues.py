"""Work in threads of its own, joined by lines that hold a few items: memory stays constant."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from apercu.deploy.video.source import VideoItem, VideoPicture

T = TypeVar("T")

JOIN_TIMEOUT = 2.0
"""Seconds for a reader to notice that nobody takes any more; one that hangs on a camera cannot."""


class BoundedQueue(Generic[T]):
    """Items on their way from one thread to another.

    Args:
        capacity: how many may wait; the giver waits for room.
        newest: items for which it is true never wait for room: they take the place of one that
            has not been taken yet, which is dropped.
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
        """Gives an item; False where nobody takes any more."""
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
        """Nothing more will be given; the taker gets what waits, then the error."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def close(self) -> None:
        """Nothing more will be taken."""
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
    """The items, made by a thread that runs ahead of who takes them; what it raises comes along."""

    def make() -> None:
        error = None
        try:
            for item in items:
                if not queue.put(item):
                    break
        except BaseException as raised:
            error = raised
        queue.finish(error)

    thread = threading.Thread(target=make, daemon=True)
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
    """A function that leaves items to a thread; all are done at the end, also after Ctrl-C.

    What the thread raises is raised by the function, or at the end.
    """
    failed: list[BaseException] = []

    def do() -> None:
        try:
            for item in queue:
                consume(item)
        except BaseException as error:
            failed.append(error)
            queue.close()

    def give(item: T) -> None:
        if not queue.put(item):
            raise failed[0]

    thread = threading.Thread(target=do, daemon=True)
    thread.start()
    try:
        yield give
    finally:
        queue.finish()
        thread.join()
    if failed:
        raise failed[0]


MAX_WAITING_AUDIO = 512
"""Packets of sound that wait beside the newest frame, at most."""


def make_live_queue() -> BoundedQueue[VideoItem]:
    """A line in which one frame waits, the newest; no sound is dropped."""
    return BoundedQueue(MAX_WAITING_AUDIO, lambda item: isinstance(item, VideoPicture))


def pace_items(
    items: Iterable[VideoItem],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[VideoItem]:
    """The items of a file, each frame no sooner than it would be shown."""
    start = None
    for item in items:
        if isinstance(item, VideoPicture):
            now = clock()
            start = now - item.seconds if start is None else start
            if (wait := start + item.seconds - now) > 0:
                sleep(wait)
        yield item
