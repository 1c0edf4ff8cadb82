"""Where the web process hands orders to LitServe's workers, and waits for what they make."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, final

from litserve.utils import LitAPIStatus, ResponseBufferItem

from apercu.deploy.serving.errors import LostError
from apercu.deploy.serving.orders import Made, Order
from apercu.deploy.serving.slips import Slip
from apercu.errors import ApercuError

if TYPE_CHECKING:
    from litserve import LitServer

    from apercu.deploy.serving.worker import Worker

LOOK, LOOKS = 0.25, 4
"""Seconds between two looks for an order with the workers and in the queue; how many may fail."""


class Desk(ABC):
    """Takes orders."""

    @abstractmethod
    async def ask(self, orders: Sequence[Order]) -> list[Made]:
        """What was made of each. Where the caller stops waiting, nobody begins to work on them.

        Raises:
            LostError: the worker stopped that had one of them.
        """

    @abstractmethod
    def waiting(self) -> int:
        """Orders that no worker has taken yet."""

    @abstractmethod
    def ready(self) -> bool:
        """Whether any worker is."""


@final
class LitDesk(Desk):
    """The desk of a LitServe server.

    Args:
        server: whose queue it is.
        worker: the kind that works there.
    """

    def __init__(self, server: LitServer, worker: Worker) -> None:
        self.server = server
        self.worker = worker

    async def ask(self, orders: Sequence[Order]) -> list[Made]:
        asked = [asyncio.ensure_future(self._ask(order)) for order in orders]
        try:
            return list(await asyncio.gather(*asked))
        finally:  # where one is lost, nobody waits for the others
            for one in asked:
                one.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def waiting(self) -> int:
        items = self.server.response_buffer.values()
        return sum(item.worker_id is None for item in items)

    def ready(self) -> bool:
        return bool(self._lives())

    async def _ask(self, order: Order) -> Made:
        with self.worker.slips.take() as slip:
            return await self._handed(order, slip)

    async def _handed(self, order: Order, slip: Slip) -> Made:
        name, item = str(uuid.uuid4()), ResponseBufferItem(asyncio.Event())
        self.server.response_buffer[name] = item
        try:
            sender, before = self.server.app.response_queue_id, self._lives()
            queue = self.server.litapi_request_queues[self.worker.api_path]
            await asyncio.to_thread(queue.put, (sender, name, time.monotonic(), (slip, order)))
            missed = pid = 0
            while missed < LOOKS and not await _set(item.event):
                if item.worker_id is None:
                    lost = self._lives() != before and await asyncio.to_thread(queue.empty)
                else:
                    pid = pid or self.worker.pids[item.worker_id]
                    lost = pid not in self._lives()
                missed = missed + 1 if lost else 0
        finally:
            self.server.response_buffer.pop(name, None)
        if not item.event.is_set():
            raise LostError("the worker that had the image stopped; send the image again")
        made, status = item.response
        if status != LitAPIStatus.OK:
            raise ApercuError("the worker failed on this image; this should not happen: report it")
        return made

    def _lives(self) -> list[int]:
        """Process ids of the workers that do."""
        return [pid for pid in self.worker.pids if _lives(pid)]


async def _set(event: asyncio.Event) -> bool:
    """Whether an event is set within a look's time."""
    with suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), LOOK)
    return event.is_set()


def _lives(pid: int) -> bool:
    if pid == 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
