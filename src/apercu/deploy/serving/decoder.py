"""A decoder: one process that has loaded all libraries, and a child of it for each picture.

The child decodes, answers and ends. Where a picture takes too much time or memory, the kernel ends
the child, and only its own request fails.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle
import resource
import signal
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from apercu.classifiers import InputSpec
from apercu.deploy.serving.prepared_image import PreparedImage, prepare_request
from apercu.deploy.serving.requests import ExplainRequest
from apercu.deploy.serving.responses import ExplainResponse, silence_libraries

BASE_BYTES, BYTES_PER_PIXEL = 256 << 20, 32
"""Memory of a picture: so many bytes, and so many for each pixel that a picture may have."""
MAX_WAIT = 10
"""How much longer than its processor time a picture may take on a busy machine."""
HASTE, NICENESS = 4000, 10
"""Decoding that may take more milliseconds gives way to everything else, by so much."""
LIBRARIES = ("pydicom.pixels", "astropy.io.fits", "pillow_heif")
"""Optional packages that are loaded once, and not in each child."""
STATM = Path("/proc/self/statm")
"""Where Linux tells the memory of a process, in pages."""
LOADED = b"\1"
"""What the decoder sends when it has loaded all libraries."""
BEGUN = b"\1"
"""What a child sends first."""
HEAD, LENGTH = struct.Struct("!II"), struct.Struct("!I")
"""Status and length of a result, or milliseconds and bytes of options of a picture; a length."""


@dataclass(frozen=True)
class DecoderSetup:
    """What a decoder needs to know.

    Args:
        input: what the explainer's images look like.
        max_pixels: pixels that a picture may have.
        max_bytes: memory that one picture may take.
    """

    input: InputSpec
    max_pixels: int
    max_bytes: int

    @classmethod
    def from_limit(cls, input: InputSpec, max_pixels: int) -> DecoderSetup:
        """Return the setup for pictures of a largest number of pixels."""
        return cls(input, max_pixels, BASE_BYTES + BYTES_PER_PIXEL * max_pixels)


def run_decoder(descriptor: int) -> NoReturn:
    """Fork a child for each connection that arrives. This is the whole decoder process.

    It leads a process group, and ends with its children when the web process is gone.
    """
    with socket.socket(fileno=descriptor) as connection:
        (length,) = LENGTH.unpack(_receive(connection, LENGTH.size))
        setup = pickle.loads(_receive(connection, length))
        _load_libraries()
        with suppress(ConnectionError):  # the web process is gone, as the loop notices
            connection.sendall(LOADED)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel removes children that ended
        while True:
            start, descriptors, _, _ = socket.recv_fds(connection, 1, 1)
            if not start:
                os.killpg(os.getpid(), signal.SIGKILL)  # with all children
            for child_end in descriptors:
                if os.fork() == 0:
                    connection.close()  # else it would stay open when the decoder has ended
                    _decode_and_end(child_end, setup)
                os.close(child_end)


def _receive(connection: socket.socket, length: int) -> bytes:
    content = b""
    while len(content) < length:
        piece = connection.recv(length - len(content))
        if not piece:
            os._exit(0)  # the web process is gone
        content += piece
    return content


def _load_libraries() -> None:
    """Load what children need, silently, and keep it where they can share it."""
    import torch

    silence_libraries()
    torch.set_num_threads(1)
    for name in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()


def _decode_and_end(descriptor: int, setup: DecoderSetup) -> NoReturn:
    """Decode the picture that arrives on a connection, answer, and end."""
    try:
        with socket.socket(fileno=descriptor) as connection, connection.makefile("rb") as stream:
            connection.sendall(BEGUN)
            milliseconds, length = HEAD.unpack(stream.read(HEAD.size))
            options = pickle.loads(stream.read(length))
            if milliseconds > HASTE:
                os.nice(NICENESS)
            _limit(milliseconds / 1000, setup.max_bytes)
            request = ExplainRequest(stream.read(), options)
            result = prepare_request(request, setup.input, setup.max_pixels)
            if isinstance(result, PreparedImage):
                result = ExplainResponse(200, result.pack())
            connection.sendall(HEAD.pack(result.status, len(result.body)) + result.body)
            connection.shutdown(socket.SHUT_WR)  # the answer is whole before this process has ended
    finally:
        os._exit(0)


def _limit(seconds: float, memory: int) -> None:
    """Limit the processor time and memory of this process from now on; no core is dumped."""
    if STATM.exists():
        size = int(STATM.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + memory, size + memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, MAX_WAIT * seconds)
