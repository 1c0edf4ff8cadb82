"""The settings of a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from apercu.errors import ConfigError

MEGA = 1_000_000
HOSTS = ("127.0.0.1", "0.0.0.0", "::")
"""This machine alone, all its IPv4 addresses, all its addresses."""
MIN_TOKEN = 16
"""Letters of a token."""


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may ask for.

    Args:
        body: bytes of a request.
        pixels: pixels of one picture.
        queue: images that may wait.
        per_client: images that one address may have here at a time; None sets no limit.
        deadline: seconds from the first byte of a request to its answer.
    """

    body: int = 32 * MEGA
    pixels: int = 50 * MEGA
    queue: int = 64
    per_client: int | None = None
    deadline: float = 30.0


@dataclass(frozen=True)
class WorkerConfig:
    """The processes that explain.

    Args:
        workers: processes, each with the whole explainer; on a machine with GPUs, on each of them.
        batch: images that a worker takes together, at most.
        device: `cpu` or `cuda`.
    """

    workers: int = 1
    batch: int = 8
    device: str = "cpu"


@dataclass(frozen=True)
class ServeSettings:
    """All settings of a server.

    Args:
        run: folder of a trained explainer, or of its export.
        classifier: SPEC of the explained classifier, if it is to predict itself.
        host: one of `HOSTS`.
        port: port to listen on, from 1024 on.
        token: bearer token that clients must send; None lets everyone in.
        limits: limits of requests.
        workers: the processes that explain.

    Raises:
        ConfigError: the host is none of `HOSTS`.
    """

    run: Path
    classifier: str | None = None
    host: str = HOSTS[0]
    port: int = 8000
    token: bytes | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    workers: WorkerConfig = field(default_factory=WorkerConfig)

    def __post_init__(self) -> None:
        if self.host not in HOSTS:
            raise ConfigError(f"host: expected one of {', '.join(HOSTS)}, got {self.host}")


def read_token(path: Path) -> bytes:
    """Read a bearer token: the first line of a file.

    Raises:
        ConfigError: the file cannot be read, or its first line is too short to be a secret.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    token = lines[0].strip() if lines else b""
    if len(token) < MIN_TOKEN or not token.isascii() or b" " in token:
        raise ConfigError(
            f"{path}: expected a token of at least {MIN_TOKEN} ASCII letters without spaces "
            "on the first line"
        )
    return token
