"""What is seen of a cluster before work is given to it, which would wait for ever."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping
from typing import Any

from apercu.deploy.batch.settings import Workers
from apercu.errors import ConfigError, UnreachableError

CONNECT_SECONDS = 5.0
"""Seconds until something must answer."""


def check_listening(address: str) -> None:
    """Sees that something listens at HOST:PORT; other addresses are left to Ray.

    Raises:
        UnreachableError: nothing does.
    """
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not (host and port.isdecimal()):
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreachableError(f"cluster: {address} cannot be reached ({reason})") from error


def check_resources(nodes: Iterable[Mapping[str, Any]], workers: Workers) -> None:
    """Sees that a task fits on one of the machines, busy or not.

    Args:
        nodes: as `ray.nodes()` describes them.
        crew: whose threads and device each task needs.

    Raises:
        ConfigError: it fits on none; Ray would wait for such a machine without a word.
    """
    rooms = [node["Resources"] for node in nodes if node["Alive"]]
    if workers.device == "cuda":
        rooms = [room for room in rooms if room.get("GPU", 0) >= 1]
        if not rooms:
            raise ConfigError("cluster: no machine has a GPU; use --device cpu")
    cores = int(max((room.get("CPU", 0) for room in rooms), default=0))
    if cores < workers.threads:
        raise ConfigError(
            f"cluster: expected at most the cores of the largest machine, {cores}, as --threads, "
            f"got {workers.threads}"
        )
