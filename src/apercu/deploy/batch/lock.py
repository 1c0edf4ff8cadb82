"""One command at a time works on a result."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from apercu.errors import RunError

LOCK = ".lock"


@contextmanager
def lock_folder(out: Path) -> Iterator[None]:
    """Keeps other commands of this machine away; a process that dies lets go by itself.

    Raises:
        RunError: another command works here.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        yield
        return
    handle = os.open(out / LOCK, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise RunError(
            f"{out}: another apercu batch works here; wait for it, or choose another --out"
        ) from error
    try:
        yield
    finally:
        os.close(handle)
