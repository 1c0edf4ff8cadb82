"""Costly pictures are decoded by a decoder, before the workers get them: the cheapest first.

Small pictures of the usual formats are decoded by the workers themselves.
"""

from __future__ import annotations

import asyncio
import heapq
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import final

from apercu.deploy.serving.app import WorkerClient
from apercu.deploy.serving.decoder import BEGUN, HEAD, LENGTH, DecoderSetup
from apercu.deploy.serving.errors import WorkerLostError
from apercu.deploy.serving.prepared_image import read_pixel_count
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse, describe_error
from apercu.errors import ApercuError, ImageError

LIGHT_PIXELS, LIGHT_BYTES = 4_000_000, 8_000_000
"""A picture of at most so many pixels and bytes is decoded by a worker, if its header tells; one
whose header has lied is refused there."""
CHILDREN = 2
"""Pictures that are decoded at the same time."""
MIN_SECONDS, PIXELS_PER_SECOND = 3, 5_000_000
"""Processor time of a picture: so many seconds, and a second more for so many of its pixels."""


def estimate_cost(content: bytes) -> int | None:
    """Return about how many pixels a costly picture makes a decoder go over; None for a light one.

    >>> estimate_cost(b"GIF89a" + bytes([100, 0, 100, 0])) is None
    True
    """
    pixels = read_pixel_count(content)
    if pixels is not None and pixels <= LIGHT_PIXELS and len(content) <= LIGHT_BYTES:
        return None
    return max(pixels or 0, len(content))


class DecoderProcess:
    """The decoder process, and the connection to it.

    Args:
        setup: what it needs to know.
    """

    def __init__(self, setup: DecoderSetup) -> None:
        self._connection, theirs = socket.socketpair()
        descriptor = theirs.fileno()
        code = f"from apercu.deploy.serving.decoder import run_decoder; run_decoder({descriptor})"
        blocked = (signal.SIGINT, signal.SIGTERM)  # the web process ends it
        before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                process_group=0,
            )
        except OSError:
            self._connection.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            theirs.close()
        content = pickle.dumps(setup)
        with suppress(ConnectionError):  # it has ended, as whoever uses it will notice
            self._connection.sendall(LENGTH.pack(len(content)) + content)

    def wait_until_loaded(self) -> None:
        """Wait until it has loaded all libraries.

        Raises:
            ApercuError: it has ended before.
        """
        answer = b""
        with suppress(ConnectionError):
            answer = self._connection.recv(1)
        if not answer:
            raise ApercuError(
                "the process that decodes images ended while it started; "
                "check that there is enough memory"
            )

    def hand_over(self, connection: socket.socket) -> None:
        """Let a new child work for the other end of a connection.

        Raises:
            OSError: the decoder is gone.
        """
        if self._process.poll() is not None:
            raise BrokenPipeError
        socket.send_fds(self._connection, [b"\0"], [connection.fileno()])

    def end(self) -> None:
        """End the process, and its children with it."""
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._connection.close()


@final
class DecodingClient(WorkerClient):
    """Has costly pictures decoded apart before the workers explain them, the cheapest first.

    Args:
        workers: explain.
        setup: what decoders need to know.
        deadline: seconds for one picture, waiting included.
    """

    def __init__(self, workers: WorkerClient, setup: DecoderSetup, deadline: float) -> None:
        self.workers = workers
        self.setup = setup
        self.deadline = deadline
        self._decoder: DecoderProcess | None = None
        self._free = CHILDREN
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._last = 0
        self._tasks: set[asyncio.Task[ExplainResponse]] = set()

    async def start(self) -> None:
        """Start the decoder, and wait until it has loaded its libraries.

        Raises:
            ApercuError: it has ended before.
        """
        self._decoder = DecoderProcess(self.setup)
        await asyncio.to_thread(self._decoder.wait_until_loaded)

    def close(self) -> None:
        """End the decoder process, for example when the server ends."""
        if self._decoder is not None:
            self._decoder.end()

    async def explain(self, requests: Sequence[ExplainRequest]) -> list[ExplainResponse]:
        costs = [estimate_cost(request.image) for request in requests]
        if not any(cost is not None for cost in costs):
            return await self.workers.explain(requests)
        pairs = zip(requests, costs, strict=True)
        explained = await asyncio.gather(
            *(self._explain_one(*pair) for pair in pairs), return_exceptions=True
        )
        responses = []
        for response in explained:
            if isinstance(response, BaseException):
                raise response
            responses.append(response)
        return responses

    def count_waiting(self) -> int:
        waiting = sum(not turn.done() for _, _, turn in self._waiting)
        return waiting + self.workers.count_waiting()

    def count_ready(self) -> int:
        return self.workers.count_ready()

    def count_replaced(self) -> int:
        return self.workers.count_replaced()

    async def _explain_one(self, request: ExplainRequest, cost: int | None) -> ExplainResponse:
        if cost is not None:
            decoded = await self._decode(request, cost)
            if decoded.status != 200:
                return decoded
            options = replace(request.options, is_prepared=True)
            request = ExplainRequest(decoded.body, options)
        [response] = await self.workers.explain([request])
        return response

    async def _decode(self, request: ExplainRequest, cost: int) -> ExplainResponse:
        """Wait for a free child and decode; a child whose client is gone still takes its place."""
        await self._take_turn(cost)
        task = asyncio.ensure_future(self._run_child(request, cost))
        self._tasks.add(task)
        task.add_done_callback(self._end_turn)
        return await asyncio.shield(task)

    async def _take_turn(self, cost: int) -> None:
        if self._free:
            self._free -= 1
            return
        self._last += 1
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (cost, self._last, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._give_turn()
            raise

    def _end_turn(self, task: asyncio.Task[ExplainResponse]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # asyncio would log what nobody has looked at
        self._give_turn()

    def _give_turn(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1

    async def _run_child(self, request: ExplainRequest, cost: int) -> ExplainResponse:
        seconds = min(MIN_SECONDS + cost / PIXELS_PER_SECOND, self.deadline)
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._hand_over(theirs)
            reader, writer = await asyncio.open_unix_connection(sock=ours)
        except OSError as error:
            ours.close()
            raise WorkerLostError("the decoder stopped; send the image again") from error
        try:
            options = pickle.dumps(request.options)
            writer.write(HEAD.pack(round(1000 * seconds), len(options)) + options)
            writer.write(request.image)
            with suppress(ConnectionError):
                writer.write_eof()
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        finally:
            writer.close()
        if not answer.startswith(BEGUN):
            raise WorkerLostError("the decoder stopped; send the image again")
        result = answer[len(BEGUN) :]
        status, length = HEAD.unpack_from(result.ljust(HEAD.size, b"\0"))
        if not status or len(result) != HEAD.size + length:
            megabytes = self.setup.max_bytes // 1_000_000
            return describe_error(
                ImageError(
                    f"image: takes more than {seconds:.1f} s or {megabytes} MB to decode; send a "
                    "smaller one, or another format"
                )
            )
        return ExplainResponse(status, result[HEAD.size :])

    def _hand_over(self, connection: socket.socket) -> None:
        """Hand a connection to the decoder; one that is gone is started again, once."""
        if self._decoder is not None:
            with suppress(OSError):
                self._decoder.hand_over(connection)
                return
            self._decoder.end()
        self._decoder = DecoderProcess(self.setup)
        self._decoder.hand_over(connection)
