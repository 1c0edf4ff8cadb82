"""The worker processes: started, given images, replaced when they die or answer nothing."""

from __future__ import annotations

import asyncio
import multiprocessing
import pickle
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import final

from apercu.deploy.serving.app import WorkerClient
from apercu.deploy.serving.channel import Message, MessageBuffer, MessageKind
from apercu.deploy.serving.errors import WorkerLostError
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse
from apercu.deploy.serving.served_explainer import ServedExplainer
from apercu.deploy.serving.worker import WorkerSetup, run_worker
from apercu.errors import ApercuError
from apercu.own_code import hide_script

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Those that end a server; workers leave them to the web process."""
CHECK_INTERVAL = 0.5
"""Seconds between two checks whether a worker still answers."""
MIN_SILENCE = 5.0
"""Seconds that a worker may be silent at work, however short the deadline of requests is."""
RESTART_PAUSE, MAX_RESTART_PAUSE = 0.5, 8.0
"""Seconds before a worker that could not be loaded is started again; doubled each time."""


@dataclass(eq=False)
class RequestTicket:
    """A request on its way through the pool.

    Attributes:
        number: number of the ticket; later ones have higher numbers.
        request: the request.
        response: is set when the worker has answered.
        worker: that has the request; None while it waits.
        begun: whether the worker has begun with it.
        was_returned: whether it has come back from a worker that stopped before it began.
    """

    number: int
    request: ExplainRequest
    response: asyncio.Future[ExplainResponse] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    worker: WorkerProcess | None = None
    begun: bool = False
    was_returned: bool = False


@final
class WorkerProcess(asyncio.Protocol):
    """One worker process and the connection to it.

    Args:
        setup: what the worker loads, and how it computes.
        on_free: is called when the worker can take more requests.

    Attributes:
        loaded: is set to the explainer when it is loaded, or to the error.
        gone: is set when the process has ended, or has closed the connection.
        tickets: the requests that it works on, by number.
    """

    def __init__(self, setup: WorkerSetup, on_free: Callable[[], None]) -> None:
        loop = asyncio.get_running_loop()
        self.loaded: asyncio.Future[ServedExplainer] = loop.create_future()
        self.gone = asyncio.Event()
        self.tickets: dict[int, RequestTicket] = {}
        self._setup = setup
        self._on_free = on_free
        self._clock = loop.time
        self._last_message = 0.0
        self._buffer = MessageBuffer()

    async def start(self) -> None:
        """Start the process, and connect it.

        Raises:
            OSError: it cannot be started now.
        """
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _start_process(theirs, self._setup)
            loop = asyncio.get_running_loop()
            self._transport, _ = await loop.create_unix_connection(lambda: self, sock=ours)
        except BaseException:
            ours.close()
            raise

    @property
    def is_ready(self) -> bool:
        """Whether the worker is loaded and can be given requests."""
        is_loaded = self.loaded.done() and not self.loaded.cancelled()
        return is_loaded and self.loaded.exception() is None and not self.gone.is_set()

    @property
    def has_room(self) -> bool:
        """Whether the worker takes another request: one batch at work, and one decoded ahead."""
        return self.is_ready and len(self.tickets) < 2 * self._setup.batch

    def silence(self) -> float:
        """Return the seconds for which the worker has answered nothing although it has work."""
        return self._clock() - self._last_message if self.tickets else 0.0

    def give(self, ticket: RequestTicket) -> None:
        """Send a request to the worker."""
        if not self.tickets:
            self._last_message = self._clock()
        ticket.worker = self
        self.tickets[ticket.number] = ticket
        options = pickle.dumps(ticket.request.options)
        message = Message(MessageKind.EXPLAIN, ticket.number, ticket.request.image, options)
        self._transport.write(message.pack())

    def cancel(self, ticket: RequestTicket) -> None:
        """Tell the worker that nobody waits for a request any more."""
        if not self.gone.is_set():
            self._transport.write(Message(MessageKind.CANCEL, ticket.number).pack())

    def kill(self) -> None:
        """End the process and its connection at once."""
        self.gone.set()
        self._transport.abort()
        self._process.kill()

    async def join(self) -> None:
        """Wait until the process has ended."""
        await asyncio.to_thread(self._process.join)

    def data_received(self, data: bytes) -> None:
        """Take in messages of the worker; asyncio calls this."""
        self._last_message = self._clock()
        for message in self._buffer.feed(data):
            self._handle(message)
        if len(self.tickets) < 2 * self._setup.batch:
            self._on_free()

    def connection_lost(self, exc: Exception | None) -> None:
        """Note that the worker is gone; asyncio calls this."""
        self.gone.set()
        if not self.loaded.done():
            self.loaded.set_exception(
                ApercuError("a worker ended while it started; check that there is enough memory")
            )

    def _handle(self, message: Message) -> None:
        match message.kind:
            case MessageKind.READY | MessageKind.FAILED if self.loaded.done():
                pass  # the server ends
            case MessageKind.READY:
                self.loaded.set_result(pickle.loads(message.content))
            case MessageKind.FAILED:
                self.loaded.set_exception(pickle.loads(message.content))
            case MessageKind.BEGUN:
                self.tickets[message.number].begun = True
            case _:
                ticket = self.tickets.pop(message.number)
                if not ticket.response.done():
                    response = ExplainResponse(message.status, message.content, message.batch)
                    ticket.response.set_result(response)


@final
class WorkerPool(WorkerClient):
    """Workers that share one queue of requests.

    Args:
        setups: one for each worker.
        deadline: seconds that a request may take; a worker at work that answers nothing for longer
            is replaced.
        report: receives a line when a worker is replaced.
    """

    def __init__(
        self, setups: Sequence[WorkerSetup], deadline: float, report: Callable[[str], None]
    ) -> None:
        self.setups = setups
        self.max_silence = max(deadline, MIN_SILENCE)
        self.report = report
        self._workers: dict[int, WorkerProcess] = {}
        self._queue: deque[RequestTicket] = deque()
        self._last_number = 0
        self._replaced = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> ServedExplainer:
        """Start all workers, and return the explainer as soon as the first one is loaded.

        Raises:
            ApercuError: a worker cannot be loaded, or ended before one was.
        """
        first: asyncio.Future[ServedExplainer] = asyncio.get_running_loop().create_future()
        for index in range(len(self.setups)):
            self._tasks.append(asyncio.create_task(self._keep_running(index, first)))
        return await first

    async def close(self) -> None:
        """End all workers at once."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers.values():
            worker.kill()
        for worker in self._workers.values():
            await worker.join()

    async def explain(self, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
        tickets = [self._submit(request) for request in requests]
        try:
            return [await ticket.response for ticket in tickets]
        finally:
            for ticket in tickets:
                self._forget(ticket)

    def count_waiting(self) -> int:
        tickets = (
            ticket for worker in self._workers.values() for ticket in worker.tickets.values()
        )
        return len(self._queue) + sum(not ticket.begun for ticket in tickets)

    def count_ready(self) -> int:
        return sum(worker.is_ready for worker in self._workers.values())

    def count_replaced(self) -> int:
        return self._replaced

    def _submit(self, request: ExplainRequest) -> RequestTicket:
        self._last_number += 1
        ticket = RequestTicket(self._last_number, request)
        self._queue.append(ticket)
        self._dispatch()
        return ticket

    def _forget(self, ticket: RequestTicket) -> None:
        """Forget a request that nobody waits for any more."""
        if ticket.response.done() and not ticket.response.cancelled():
            ticket.response.exception()  # asyncio would log what nobody has looked at
            return
        ticket.response.cancel()
        if ticket.worker is None:
            self._queue.remove(ticket)
        else:
            ticket.worker.cancel(ticket)

    def _dispatch(self) -> None:
        """Give waiting requests to the workers with the fewest."""
        while self._queue:
            free = [worker for worker in self._workers.values() if worker.has_room]
            if not free:
                return
            min(free, key=lambda worker: len(worker.tickets)).give(self._queue.popleft())

    async def _keep_running(self, index: int, first: asyncio.Future[ServedExplainer]) -> None:
        """Run a worker, and another one whenever it ends."""
        pause = RESTART_PAUSE
        while True:
            reason = "stopped"
            worker = WorkerProcess(self.setups[index], self._dispatch)
            try:
                await worker.start()
                self._workers[index] = worker
                served = await worker.loaded
                if not first.done():
                    first.set_result(served)
                self._dispatch()
                pause = RESTART_PAUSE
                reason = await self._watch(worker)
            except (ApercuError, OSError) as error:
                if not first.done():
                    first.set_exception(error)
                    return
                reason = f"could not be started ({error})"
                await asyncio.sleep(pause)
                pause = min(2 * pause, MAX_RESTART_PAUSE)
            self._replaced += 1
            self.report(f"a worker {reason}; another one is started")
            if self._workers.get(index) is worker:
                worker.kill()
                self._take_back(worker)
                await worker.join()

    async def _watch(self, worker: WorkerProcess) -> str:
        """Wait until a worker is gone or answers nothing at work, and return the reason."""
        while True:
            try:
                await asyncio.wait_for(worker.gone.wait(), CHECK_INTERVAL)
                return "stopped"
            except TimeoutError:
                if worker.silence() > self.max_silence:
                    return f"answered nothing for {self.max_silence:g} s"

    def _take_back(self, worker: WorkerProcess) -> None:
        """Queue again what a worker had not begun with; the rest of its requests has failed.

        A request is queued again once: an image that stops one worker while it is decoded must
        not stop all of them.
        """
        returned = []
        for ticket in worker.tickets.values():
            if ticket.response.done():
                continue
            if ticket.begun or ticket.was_returned:
                ticket.response.set_exception(
                    WorkerLostError("the worker that had the image stopped; send the image again")
                )
            else:
                ticket.worker, ticket.was_returned = None, True
                returned.append(ticket)
        worker.tickets.clear()
        self._queue.extendleft(reversed(returned))
        self._dispatch()


def _start_process(
    connection: socket.socket, setup: WorkerSetup
) -> multiprocessing.process.BaseProcess:
    """Start a worker process that leaves the signals of a terminal to this one."""
    resource_tracker.ensure_running()  # it would unblock the signals
    process = multiprocessing.get_context("spawn").Process(
        target=run_worker, args=(connection, setup), daemon=True
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        with hide_script():
            process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return process
