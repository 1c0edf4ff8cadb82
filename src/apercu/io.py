"""Writing results: a file is there whole, or not at all."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Float
from torch import Tensor

from apercu.errors import OutputError


def write_file(path: Path, content: bytes | str) -> Path:
    """Write a file (text as UTF-8) and the folders above it; readers never see half of it.

    Raises:
        OutputError: the disk is full, or the folder cannot be written; an older file stays.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = error.strerror or str(error)
        raise OutputError(
            f"{path}: cannot be written ({reason}); free some space or choose another folder"
        ) from error
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write results as JSON, which knows no NaN; raises `OutputError`."""
    return write_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def check_writable(folder: Path) -> None:
    """Makes a folder, and sees that a file can be written there, before long work.

    Raises:
        OutputError: it cannot.
    """
    above = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    if not above.is_dir():
        raise OutputError(f"{folder}: expected a folder, but {above} is a file; choose another")
    write_file(folder / ".probe", b"").unlink()


def write_map(path: Path, map: Float[Tensor, "height width"]) -> Path:
    """Write one raw float map as NumPy's `.npy`; raises `OutputError`."""
    buffer = io.BytesIO()
    np.save(buffer, map.detach().cpu().numpy(), allow_pickle=False)
    return write_file(path, buffer.getvalue())
