"""Read `.npz` archives of plain arrays: headers first, then single arrays, never a pickle."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from apercu.errors import ImagesError
from apercu.images.formats.decoder_errors import DECODER_ERRORS, silence_warnings
from apercu.images.limits import unpacked_limit

MAX_ARRAY_BYTES = 8 << 30
"""Largest size of one array in memory."""
MAX_ARRAYS = 1000
"""Largest number of arrays in one archive."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class ArrayHeader(NamedTuple):
    """Shape and type of one array of an archive, known before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_array_headers(path: Path) -> dict[str, ArrayHeader]:
    """Read the headers of an archive; arrays of objects are left out.

    Args:
        path: the `.npz` file.

    Returns:
        The header of each array by name.

    Raises:
        ImagesError: the archive is missing, damaged, or too large.
    """
    headers: dict[str, ArrayHeader] = {}
    with _open_archive(path) as archive:
        members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
        if len(members) > MAX_ARRAYS:
            raise ImagesError(f"{path}: expected at most {MAX_ARRAYS} arrays, got {len(members)}")
        for info in members:
            with archive.open(info) as stream:
                header = _read_array_header(stream)
            if header.dtype.hasobject:
                continue
            size = math.prod(header.shape) * header.dtype.itemsize
            limit = unpacked_limit(info.compress_size, MAX_ARRAY_BYTES)
            if max(size, info.file_size) > limit:
                most = f"{limit >> 30} GiB" if limit >= 1 << 30 else f"{limit >> 20} MiB"
                raise ImagesError(
                    f"{path}: {info.filename} is too large, expected at most {most} unpacked; "
                    "split it"
                )
            if size > info.file_size:
                raise ImagesError(f"{path}: damaged, {info.filename} is shorter than it says")
            headers[info.filename.removesuffix(".npy")] = header
    return headers


def load_array(path: Path, name: str) -> NDArray[Any]:
    """Read one array of an archive by name; raises ImagesError if it is damaged."""
    with _open_archive(path) as archive, archive.open(f"{name}.npy") as stream:
        values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        stream.read(1)  # the checksum is compared at the end of the member
        return values


def _read_array_header(stream: Any) -> ArrayHeader:
    """Read the header of one array; raise ValueError for an unknown version of the format."""
    version = npy.read_magic(stream)
    if version not in _HEADERS:
        raise ValueError(f"version {version}")
    shape, _, dtype = _HEADERS[version](stream)
    return ArrayHeader(shape, dtype)


@contextmanager
def _open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open an archive within a `with` block; any exception inside becomes an ImagesError."""
    try:
        with silence_warnings("numpy"), zipfile.ZipFile(path) as archive:
            yield archive
    except ImagesError:
        raise
    except MemoryError as error:
        raise ImagesError(f"{path}: larger than memory can hold; split it") from error
    except OSError as error:
        raise ImagesError(f"{path}: cannot be read ({error.strerror or error})") from error
    except DECODER_ERRORS as error:
        raise ImagesError(
            f"{path}: damaged, or no .npz archive of plain arrays ({type(error).__name__})"
        ) from error
