"""Pictures stacked in one array of an `.npz` file, with their ids beside it."""

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

from apercu.errors import ImageError, ImagesError
from apercu.images.formats.npy import FULL_SCALE
from apercu.images.formats.npz import ArrayHeader, load_array, read_array_headers
from apercu.images.limits import check_size
from apercu.images.source import ImageSource, Item, normalise_index

ID_ARRAYS = ("id", "ids", "candid", "name", "names")
"""The first of these that an archive has names its pictures."""

_PIXEL_TYPES = ("u1", "b1", "u2", "f2", "f4", "f8")


class LazyArray:
    """One array of an archive, read once per process when first asked for; pickles without it."""

    def __init__(self, path: Path, array: str) -> None:
        self.__setstate__((path, array))

    def __getstate__(self) -> tuple[Path, str]:
        return self._path, self._array

    def __setstate__(self, state: tuple[Path, str]) -> None:
        self._path, self._array = state
        self._process, self._lock = os.getpid(), threading.Lock()
        self._values: NDArray[Any] | None = None

    def read_row(self, index: int) -> NDArray[Any]:
        """Raises ImagesError when the archive is damaged."""
        if self._process != os.getpid():  # the lock may have been held when the process forked
            self._process, self._lock = os.getpid(), threading.Lock()
        with self._lock:
            if self._values is None:
                self._values = load_array(self._path, self._array)
            row: NDArray[Any] = self._values[index]
            return row


@dataclass(frozen=True, eq=False)
class StackImages(ImageSource):
    """Rows of an array, number × [channels ×] height × width."""

    path: Path
    ids: tuple[str, ...] = field(repr=False)
    pixels: LazyArray = field(repr=False)

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def class_names(self) -> None:
        return None

    @property
    def labelled(self) -> bool:
        return False

    @property
    def names(self) -> tuple[str, ...]:
        return self.ids

    def __len__(self) -> int:
        return len(self.ids)

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
    """Opens an archive by its headers and reads the ids; no picture is read yet.

    uint8, uint16 and bool are scaled to [0, 1]; floats are taken as they are, raw counts too, and
    what is infinite becomes NaN. Raises ImagesError for an archive that is damaged or too large,
    that has no single array of pictures, or one of other channels.
    """
    arrays = read_array_headers(path)
    array = _find_image_array(path, arrays)
    shape = arrays[array].shape
    check_size(str(path), *shape[-2:])
    have = 1 if len(shape) == 3 else shape[1]
    if have != channels:
        raise ImagesError(
            f"{path}: expected {channels} channels, got {have} in {array} ({_format_shape(shape)}); "
            "pictures of a stack are number × channels × height × width"
        )
    if not shape[0]:
        raise ImagesError(f"{path}: no images, {array} has no rows")
    return StackImages(path, _read_ids(path, arrays, shape[0]), LazyArray(path, array))


def _find_image_array(path: Path, arrays: Mapping[str, ArrayHeader]) -> str:
    """Name of the array that holds the pictures."""
    found = [name for name, (shape, _) in arrays.items() if len(shape) in (3, 4)]
    if len(found) != 1:
        listed = ", ".join(f"{name} {_format_shape(shape)}" for name, (shape, _) in arrays.items())
        raise ImagesError(
            f"{path}: expected one array of 3 or 4 axes, number × [channels ×] height × width, "
            f"got {len(found)} ({listed or 'no arrays'})"
        )
    dtype = arrays[found[0]].dtype
    if dtype.str[1:] not in _PIXEL_TYPES:
        raise ImagesError(
            f"{path}: expected {found[0]} to be float, uint8, uint16 or bool, got {dtype}; "
            "convert it"
        )
    return found[0]


def _read_ids(path: Path, arrays: Mapping[str, ArrayHeader], count: int) -> tuple[str, ...]:
    """The ids of the rows as text, or the numbers of the rows where there are none.

    Raises ImagesError for ids that name a row twice.
    """
    kinds = {name for name, (_, dtype) in arrays.items() if dtype.kind in "iuUS"}
    fitting = [name for name in arrays if name in kinds and arrays[name].shape == (count,)]
    known = next((name for name in ID_ARRAYS if name in fitting), None)
    if known is not None:
        ids = _read_texts(path, known)
        if len(set(ids)) < count:
            twice = next(one for one in ids if ids.count(one) > 1)
            raise ImagesError(f"{path}: expected each of {known} once, got {twice} several times")
        return ids
    unique = [
        ids for ids in (_read_texts(path, name) for name in fitting) if len(set(ids)) == count
    ]
    return unique[0] if len(unique) == 1 else tuple(map(str, range(count)))


def _read_texts(path: Path, array: str) -> tuple[str, ...]:
    values = load_array(path, array)
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    return tuple(str(value) for value in values.tolist())


def _format_shape(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))
