"""Images stacked in one array of an `.npz` file, with an array of their ids."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from apercu.errors import ImageError, ImagesError, format_shape
from apercu.images.formats.npy import FULL_SCALE
from apercu.images.formats.npz import ArrayHeader, load_array, read_array_headers
from apercu.images.limits import check_size
from apercu.images.source import Item, UnlabelledFile, normalise_index

ID_ARRAYS = ("id", "ids", "candid", "name", "names")
"""Names of arrays that may hold the ids; the first that an archive has is used."""

_PIXEL_TYPES = ("u1", "b1", "u2", "f2", "f4", "f8")


class LazyArray:
    """One array of an archive, read at the first access of each process; a pickle leaves it out."""

    def __init__(self, path: Path, array: str) -> None:
        self.__setstate__((path, array))

    def __getstate__(self) -> tuple[Path, str]:
        return self._path, self._array

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self._path, self._array = state
        self._process, self._lock = os.getpid(), threading.Lock()
        self._values: NDArray[Any] | None = None

    def read_row(self, index: int) -> NDArray[Any]:
        """Return one row of the array; raises ImagesError if the archive is damaged."""
        if self._process != os.getpid():  # the lock may have been held when the process forked
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            if self._values is None:
                self._values = load_array(self._path, self._array)
            row: NDArray[Any] = self._values[index]
            return row


@dataclass(frozen=True, eq=False)
class StackImages(UnlabelledFile):
    """The rows of an array, `images × [channels ×] height × width`, as images."""

    pixels: LazyArray = field(repr=False)

    def __getitem__(self, index: int) -> Item:
        name = self.ids[normalise_index(index, len(self))]
        row = self.pixels.read_row(index)
        with np.errstate(over="ignore", invalid="ignore"):
            values = row.reshape(-1, *row.shape[-2:]).astype(np.float32)
        values /= np.float32(FULL_SCALE.get(row.dtype.str, 1.0))
        values[np.isinf(values)] = np.nan
        if np.isnan(values).all():
            raise ImageError(f"{self.path} {name}: expected pixels, got only NaN; leave it out")
        return Item(name, torch.from_numpy(values), None, None, None)


def open_stack(path: Path, channels: int) -> StackImages:
    """Open an archive by its headers and read the ids; no picture is read yet.

    uint8, uint16 and bool are scaled to [0, 1]; floats are kept, raw counts too, and infinite
    pixels become NaN.

    Args:
        path: the `.npz` file.
        channels: channels that the pictures must have.

    Returns:
        The images of the archive.

    Raises:
        ImagesError: the archive is damaged or too large, it has no single array of pictures, or
            the pictures have other channels.
    """
    arrays = read_array_headers(path)
    name = _find_image_array(path, arrays)
    shape = arrays[name].shape
    check_size(str(path), *shape[-2:])
    stored = 1 if len(shape) == 3 else shape[1]
    if stored != channels:
        raise ImagesError(
            f"{path}: expected {channels} channel{'s' * (channels != 1)}, got {stored} in {name} "
            f"({format_shape(shape)}); pictures of a stack are number × channels × height × width"
        )
    if not shape[0]:
        raise ImagesError(f"{path}: no images, {name} has no rows")
    return StackImages(path, _read_ids(path, arrays, shape[0]), LazyArray(path, name))


def _find_image_array(path: Path, arrays: Mapping[str, ArrayHeader]) -> str:
    """Return the name of the array that holds the pictures."""
    names = [name for name, (shape, _) in arrays.items() if len(shape) in (3, 4)]
    if len(names) != 1:
        shapes = ", ".join(f"{name} {format_shape(shape)}" for name, (shape, _) in arrays.items())
        raise ImagesError(
            f"{path}: expected one array of 3 or 4 axes, number × [channels ×] height × width, "
            f"got {len(names)} ({shapes or 'no arrays'})"
        )
    (name,) = names
    dtype = arrays[name].dtype
    if dtype.str[1:] not in _PIXEL_TYPES:
        raise ImagesError(
            f"{path}: expected {name} to be float, uint8, uint16 or bool, got {dtype}; convert it"
        )
    return name


def _read_ids(path: Path, arrays: Mapping[str, ArrayHeader], count: int) -> tuple[str, ...]:
    """Read the ids of the rows as text; the numbers of the rows if there is no array of ids.

    Raises ImagesError if an id is repeated.
    """
    candidates = [
        name
        for name, (shape, dtype) in arrays.items()
        if dtype.kind in "iuUS" and shape == (count,)
    ]
    name = next((name for name in ID_ARRAYS if name in candidates), None)
    if name is not None:
        ids = _read_texts(path, name)
        if len(set(ids)) < count:
            repeated = next(text for text in ids if ids.count(text) > 1)
            raise ImagesError(f"{path}: expected each of {name} once, got {repeated} several times")
        return ids
    columns = [_read_texts(path, name) for name in candidates]
    unique = [ids for ids in columns if len(set(ids)) == count]
    return unique[0] if len(unique) == 1 else tuple(map(str, range(count)))


def _read_texts(path: Path, name: str) -> tuple[str, ...]:
    """Read an array of an archive as texts."""
    values = load_array(path, name)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    return tuple(str(value) for value in values.tolist())
