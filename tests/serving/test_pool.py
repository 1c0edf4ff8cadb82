"""The pool in this process, with workers that are threads: who gets what, what is given back."""

from __future__ import annotations

import asyncio
import pickle
import socket
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from apercu.deploy.serving import pool as pool_module
from apercu.deploy.serving.channel import Message, MessageBuffer, MessageKind, read_message
from apercu.deploy.serving.errors import WorkerLostError
from apercu.deploy.serving.pool import WorkerPool
from apercu.deploy.serving.requests import ExplainRequest, RequestOptions
from apercu.deploy.serving.worker import BatchingLoop, WorkerSetup
from apercu.errors import ApercuError, RunError


class FakeWorker:
    """Stands for a worker process; the test says what it sends."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection.dup()
        self.received: list[Message] = []
        threading.Thread(target=self._receive, daemon=True).start()

    def _receive(self) -> None:
        with self.connection.makefile("rb") as stream:
            while (message := read_message(stream)) is not None:
                self.received.append(message)

    def send(self, kind: MessageKind, number: int = 0, content: bytes = b"") -> None:
        self.connection.sendall(Message(kind, number, content, status=200).pack())

    def load(self) -> None:
        self.send(MessageKind.READY, content=pickle.dumps("the explainer"))

    def numbers(self, kind: MessageKind = MessageKind.EXPLAIN) -> list[int]:
        return [message.number for message in self.received if message.kind == kind]

    def kill(self) -> None:
        with suppress(OSError):  # it is gone already
            self.connection.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self.connection.close()


Scenario = Callable[[WorkerPool, list[FakeWorker]], Coroutine[Any, Any, None]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Plays a scenario with a pool, and returns what the pool reported."""

    def run(scenario: Scenario, *, workers: int = 1, batch: int = 2) -> list[str]:
        started: list[FakeWorker] = []
        reported: list[str] = []

        def spawn(connection: socket.socket, setup: WorkerSetup) -> FakeWorker:
            started.append(FakeWorker(connection))
            return started[-1]

        monkeypatch.setattr(pool_module, "_start_process", spawn)
        monkeypatch.setattr(pool_module, "CHECK_INTERVAL", 0.02)
        monkeypatch.setattr(pool_module, "RESTART_PAUSE", 0.02)

        async def main() -> None:
            setup = WorkerSetup(Path("run"), batch=batch)
            pool = WorkerPool([setup] * workers, 30.0, reported.append)
            try:
                async with asyncio.timeout(20):
                    await scenario(pool, started)
            finally:
                await pool.close()

        asyncio.run(main())
        return reported

    return run


async def _until(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.005)


async def _begin(pool: WorkerPool, started: list[FakeWorker], workers: int = 1) -> None:
    """Starts the pool, with all workers loaded."""
    loading = asyncio.create_task(pool.start())
    await _until(lambda: len(started) == workers)
    for fake in started:
        fake.load()
    assert await loading == "the explainer"
    await _until(lambda: pool.count_ready() == workers)


def _ask(pool: WorkerPool, *images: bytes) -> asyncio.Task[Any]:
    return asyncio.create_task(pool.explain([ExplainRequest(image) for image in images]))


def test_a_request_and_its_response(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started)
        task = _ask(pool, b"one", b"two")
        await _until(lambda: started[0].numbers() == [1, 2])
        assert started[0].received[0].content == b"one"
        assert pickle.loads(started[0].received[0].options) == RequestOptions()
        assert pool.count_waiting() == 2
        started[0].send(MessageKind.BEGUN, 1)
        await _until(lambda: pool.count_waiting() == 1)
        started[0].send(MessageKind.RESPONSE, 2, b"second")
        started[0].send(MessageKind.RESPONSE, 1, b"first")
        assert [response.body for response in await task] == [b"first", b"second"]
        assert pool.count_waiting() == 0

    assert play(scenario) == []


def test_a_worker_holds_two_batches_at_most(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started)
        task = _ask(pool, *[b"x"] * 6)
        await _until(lambda: started[0].numbers() == [1, 2, 3, 4])
        assert pool.count_waiting() == 6
        started[0].send(MessageKind.RESPONSE, 1)
        await _until(lambda: started[0].numbers() == [1, 2, 3, 4, 5])
        task.cancel()

    play(scenario)


def test_the_worker_with_the_fewest_requests_gets_the_next(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started, 2)
        task = _ask(pool, *[b"x"] * 3)
        await _until(lambda: sorted(len(one.numbers()) for one in started) == [1, 2])
        idle = min(started, key=lambda one: len(one.numbers()))
        again = _ask(pool, b"x")
        await _until(lambda: len(idle.numbers()) == 2)
        task.cancel()
        again.cancel()

    play(scenario, workers=2)


def test_no_worker_begins_for_a_client_that_has_gone(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started)
        tasks = [_ask(pool, b"x") for _ in range(6)]
        await _until(lambda: len(started[0].numbers()) == 4)
        for task in (tasks[3], tasks[4]):
            task.cancel()
        await _until(lambda: started[0].numbers(MessageKind.CANCEL) == [4])
        assert pool.count_waiting() == 5  # the fifth has left the queue
        started[0].send(MessageKind.DROPPED, 4)
        await _until(lambda: started[0].numbers() == [1, 2, 3, 4, 6])
        for number in (1, 2, 3, 6):
            started[0].send(MessageKind.RESPONSE, number)
        await asyncio.gather(*(task for task in tasks if task not in (tasks[3], tasks[4])))

    play(scenario)


def test_what_a_dead_worker_had_not_begun_goes_to_the_next(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started)
        tasks = [_ask(pool, b"x") for _ in range(5)]
        await _until(lambda: len(started[0].numbers()) == 4)
        started[0].send(MessageKind.BEGUN, 1)
        started[0].send(MessageKind.RESPONSE, 2)
        await _until(lambda: tasks[1].done())
        started[0].kill()
        with pytest.raises(WorkerLostError, match="the worker that had the image stopped"):
            await tasks[0]
        await _until(lambda: len(started) == 2)
        assert pool.count_ready() == 0
        started[1].load()
        await _until(lambda: started[1].numbers() == [3, 4, 5])  # in their order
        started[1].send(MessageKind.RESPONSE, 5)
        await tasks[4]
        started[1].kill()  # before it begins: 3 and 4 are not given to a third one
        for task in tasks[2:4]:
            with pytest.raises(WorkerLostError):
                await task
        assert pool.count_waiting() == 0
        assert pool.count_replaced() == 2

    assert play(scenario) == ["a worker stopped; another one is started"] * 2


def test_a_worker_that_answers_nothing_is_replaced(play, monkeypatch) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        pool.max_silence = 0.3
        await _begin(pool, started)
        await asyncio.sleep(0.5)
        assert len(started) == 1  # it has no work
        task = _ask(pool, b"x", b"y")
        await _until(lambda: len(started[0].numbers()) == 2)
        begun = time.monotonic()
        await asyncio.sleep(0.2)
        started[0].send(MessageKind.RESPONSE, 1)  # slow, but alive
        await _until(lambda: len(started) == 2)
        assert time.monotonic() - begun > 0.4
        started[1].load()
        await _until(lambda: started[1].numbers() == [2])
        started[1].send(MessageKind.RESPONSE, 2)
        await task

    response = play(scenario)
    assert response == ["a worker answered nothing for 0.3 s; another one is started"]


def test_errors_while_the_first_worker_is_loaded(play) -> None:
    async def dies(pool: WorkerPool, started: list[FakeWorker]) -> None:
        loading = asyncio.create_task(pool.start())
        await _until(lambda: started)
        started[0].kill()
        with pytest.raises(ApercuError, match="a worker ended while it started"):
            await loading

    async def fails(pool: WorkerPool, started: list[FakeWorker]) -> None:
        loading = asyncio.create_task(pool.start())
        await _until(lambda: started)
        started[0].send(MessageKind.FAILED, content=pickle.dumps(RunError("no run folder")))
        with pytest.raises(RunError, match="no run folder"):
            await loading

    assert play(dies) == play(fails) == []


def test_a_worker_that_cannot_be_loaded_is_tried_again(play) -> None:
    async def scenario(pool: WorkerPool, started: list[FakeWorker]) -> None:
        await _begin(pool, started)
        started[0].kill()
        await _until(lambda: len(started) == 2)
        started[1].kill()
        await _until(lambda: len(started) == 3)
        started[2].load()
        await _until(lambda: pool.count_ready() == 1)

    first, second = play(scenario)
    assert first == "a worker stopped; another one is started"
    assert second.startswith("a worker could not be started (a worker ended while it started")


def test_messages_in_pieces() -> None:
    messages = [
        Message(MessageKind.EXPLAIN, 2**40, b"image", b"options"),
        Message(MessageKind.RESPONSE, 7, b"{}", status=503, batch=8),
        Message(MessageKind.CANCEL, 1),
    ]
    packed = b"".join(message.pack() for message in messages)
    for size in (1, 7, 1000):
        buffer, results = MessageBuffer(), []
        for first in range(0, len(packed), size):
            results += buffer.feed(packed[first : first + size])
        assert results == messages
    ours, theirs = socket.socketpair()
    with ours, theirs.makefile("rb") as stream:
        ours.sendall(packed + packed[:20])
        ours.close()
        assert [read_message(stream) for _ in range(4)] == [*messages, None]
    theirs.close()


def test_the_loop_takes_what_is_there_up_to_a_batch(worker, png) -> None:
    ours, theirs = socket.socketpair()
    closed = threading.Event()
    with ours:
        loop = BatchingLoop(theirs, WorkerSetup(Path("run"), batch=2), closed.set)
        loop.worker = worker
        options = pickle.dumps(RequestOptions())
        explain = [Message(MessageKind.EXPLAIN, n, png, options) for n in (1, 2, 3, 4)]
        ours.sendall(Message(MessageKind.CANCEL, 2).pack())
        ours.sendall(b"".join(message.pack() for message in explain))
        threading.Thread(target=loop.receive, daemon=True).start()
        while loop.count_waiting() < 4:
            time.sleep(0.01)
        batch = loop.take()
        assert [arrival.number for arrival in batch] == [1]  # nobody waits for the second
        loop.answer(batch)
        batch = loop.take()
        assert [arrival.number for arrival in batch] == [3, 4]
        loop.answer(batch)
        with ours.makefile("rb") as stream:
            sent = [read_message(stream) for _ in range(7)]
        ours.shutdown(socket.SHUT_RDWR)
        assert closed.wait(20)
    kinds = [(one.kind, one.number) for one in sent if one.kind != MessageKind.RESPONSE]
    assert kinds == [
        (MessageKind.BEGUN, 1),
        (MessageKind.DROPPED, 2),
        (MessageKind.BEGUN, 3),
        (MessageKind.BEGUN, 4),
    ]
    responses = {one.number: one for one in sent if one.kind == MessageKind.RESPONSE}
    assert {number: one.batch for number, one in responses.items()} == {1: 1, 3: 2, 4: 0}
    assert all(one.status == 200 for one in responses.values())
    theirs.close()
