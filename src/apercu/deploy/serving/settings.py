"""How a server is set up."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from apercu.errors import ConfigError

MEGA = 1_000_000
HOSTS = ("127.0.0.1", "0.0.0.0", "::")
"""This machine alone, every address of it, every address with IPv6."""
SHORTEST_TOKEN = 16


@dataclass(frozen=True)
class Limits:
    """What one caller, and all of them together, may ask for.

    Args:
        body: bytes of a request.
        pixels: of one picture.
        queue: images that may wait.
        each: images that one address may have here; None lets it have as many as there is room for.
        deadline: seconds from the first byte of a request to its answer.
    """

    body: int = 32 * MEGA
    pixels: int = 50 * MEGA
    queue: int = 64
    each: int | None = None
    deadline: float = 30.0


@dataclass(frozen=True)
class Crew:
    """Who works.

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
    """A whole server.

    Args:
        run: folder of a trained explainer, or of its export.
        classifier: SPEC of the explained classifier, where it is asked as well.
        host: one of `HOSTS`.
        port: from 1024 on.
        token: what callers must show; None lets everyone in.
        limits: of requests.
        crew: who works.

    Raises:
        ConfigError: a host that cannot be bound to.
    """

    run: Path
    classifier: str | None = None
    host: str = HOSTS[0]
    port: int = 8000
    token: bytes | None = field(default=None, repr=False)
    limits: Limits = field(default_factory=Limits)
    crew: Crew = field(default_factory=Crew)

    def __post_init__(self) -> None:
        if self.host not in HOSTS:
            raise ConfigError(f"host: expected one of {', '.join(HOSTS)}, got {self.host}")


def read_token(path: Path) -> bytes:
    """The first line of a file.

    Raises:
        ConfigError: there is no such file, or what it holds is too short to be a secret.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    token = lines[0].strip() if lines else b""
    if len(token) < SHORTEST_TOKEN or not token.isascii() or b" " in token:
        raise ConfigError(
            f"{path}: expected a token of at least {SHORTEST_TOKEN} ASCII letters without spaces "
            "on the first line"
        )
    return token
