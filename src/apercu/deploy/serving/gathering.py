"""How a worker takes images off LitServe's queue: it waits for the first and takes what is there.

LitServe's own loop asks an empty queue again and again, which keeps a core busy.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
from multiprocessing.sharedctypes import RawValue
from queue import Empty, Queue
from typing import Any, final

from litserve import LitAPI
from litserve.loops.base import _StopLoopError
from litserve.loops.simple_loops import BatchedLoop
from litserve.transport.base import MessageTransport
from litserve.utils import LitAPIStatus, LoopResponseType

from apercu.deploy.serving.slips import Slips

NAP = 0.1
"""Seconds that a worker waits at a time; what it was about to take is lost if it is killed then."""


@final
class Gathering(BatchedLoop):
    """Batches of what waits, at most as many as the worker takes; nothing is waited for.

    Attributes:
        closed: ends the worker, in memory that it shares with the process that started it; set
            when the web process has ended, and nobody can be waiting for anything.
        slips: of what is wanted.
    """

    slips: Slips

    def __init__(self) -> None:
        super().__init__()
        self.closed: ctypes.c_bool = RawValue(ctypes.c_bool, False)

    def get_batch_requests(
        self, lit_api: LitAPI, request_queue: Queue[Any], transport: MessageTransport
    ) -> tuple[list[Any], list[Any]]:
        """Images that somebody waits for, and none that LitServe should refuse."""
        fresh: list[Any] = []
        try:
            taken = request_queue.get(timeout=NAP)
            while True:
                sender, uid, _, (slip, order) = taken
                if self.slips.hold(slip):
                    self.put_response(
                        transport, sender, uid, (), LitAPIStatus.START, LoopResponseType.REGULAR
                    )
                    fresh.append((sender, uid, order))
                if len(fresh) == lit_api.max_batch_size:
                    break
                taken = request_queue.get_nowait()
        except Empty:
            pass
        except (EOFError, ConnectionError) as error:
            raise _StopLoopError from error  # the server has ended
        parent = multiprocessing.parent_process()
        orphaned = parent is not None and parent.pid != os.getppid()
        if orphaned or self.closed.value:
            raise _StopLoopError
        return fresh, []
