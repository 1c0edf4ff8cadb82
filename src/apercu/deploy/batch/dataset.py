"""Data sets: a number of images in an order, each with a name, from files, sources or URLs."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any, final

from apercu.classifiers import InputSpec
from apercu.deploy.batch.remote_files import RemoteFiles
from apercu.errors import ImageError
from apercu.images import ImageSource, Planted
from apercu.images.folder import FolderImages
from apercu.images.formats.dicom import is_dicom, read_dicom_heading
from apercu.images.reader import ReadOptions, read_stored
from apercu.types import Picture


class Dataset(ABC):
    """Images that are read one at a time, in any order and from several threads.

    No picture is kept in memory.
    """

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def get_name(self, index: int) -> str:
        """Return the name of an image in the data set, whether it can be read or not."""

    @abstractmethod
    def read_picture(self, index: int) -> Picture:
        """Read an image as it was stored, upright, `channels × height × width`.

        Raises:
            InputError: the image cannot be read, neither now nor the next time.
            UnreachableError: the storage cannot be reached now.
        """

    def read_values(self, index: int) -> dict[str, Any]:
        """Return the further columns of an image that are kept beside its result, by their names.

        Raises:
            InputError: they cannot be read.
            UnreachableError: the storage cannot be reached now.
        """
        return {}

    @property
    def kept_columns(self) -> tuple[Any, ...]:
        """The Arrow fields of the columns that are kept."""
        return ()

    @abstractmethod
    def compute_digest(self) -> str:
        """Return a SHA-256 over the names and sizes of all files, or over how images are made.

        Another digest means other images.
        """


@final
@dataclass(frozen=True, eq=False)
class RandomSubset(Dataset):
    """Some images of a data set, drawn at random, in its order.

    Attributes:
        images: the whole data set.
        limit: the largest number of images that are drawn.
        seed: the seed of the draw.
        indices: the positions of the drawn images in the data set.
    """

    images: Dataset
    limit: int
    seed: int
    indices: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        indices = random.Random(self.seed).sample(range(count), min(self.limit, count))
        object.__setattr__(self, "indices", tuple(sorted(indices)))

    def __len__(self) -> int:
        return len(self.indices)

    def get_name(self, index: int) -> str:
        return self.images.get_name(self.indices[index])

    def read_picture(self, index: int) -> Picture:
        return self.images.read_picture(self.indices[index])

    def read_values(self, index: int) -> dict[str, Any]:
        return self.images.read_values(self.indices[index])

    @property
    def kept_columns(self) -> tuple[Any, ...]:
        return self.images.kept_columns

    def compute_digest(self) -> str:
        return self.images.compute_digest()


@final
class SourceDataset(Dataset):
    """The images of a source; their names are kept in memory.

    Args:
        source: a source of images.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.names = source.names

    def __len__(self) -> int:
        return len(self.names)

    def get_name(self, index: int) -> str:
        return self.names[index]

    def read_picture(self, index: int) -> Picture:
        return self.source.picture(index)

    def compute_digest(self) -> str:
        sha = hashlib.sha256()
        if isinstance(self.source, FolderImages):
            for location in self.source.locations:
                size = _measure_file(self.source.path / location.file)
                line = f"{location.name} {size}\n"
                sha.update(line.encode(errors="surrogateescape"))
            return sha.hexdigest()
        if isinstance(self.source, Planted):  # its name holds every setting
            return hashlib.sha256(self.source.name.encode()).hexdigest()
        sha.update(f"{_measure_file(Path(self.source.name))}\n".encode())
        for name in self.names:
            sha.update(f"{name}\n".encode())
        return sha.hexdigest()


def _measure_file(path: Path) -> int:
    """Return the bytes of a file; 0 if it is missing, which is reported when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@final
class UrlDataset(Dataset):
    """One picture per file, at any depth of folders; the names are kept in memory.

    Args:
        files: the listed files.
        input: the number of channels and the names of the bands.
    """

    def __init__(self, files: RemoteFiles, input: InputSpec) -> None:
        self.files = files
        self.reading_options = ReadOptions(input.channels, bands=input.bands)

    def __len__(self) -> int:
        return len(self.files.paths)

    def get_name(self, index: int) -> str:
        return self.files.paths[index]

    def read_picture(self, index: int) -> Picture:
        name = self.get_name(index)
        content = self.files.read_file(name)
        try:
            if is_dicom(content):
                _check_single(content, name)
            return read_stored(content, self.reading_options).picture
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def compute_digest(self) -> str:
        sha = hashlib.sha256()
        for name, size in zip(self.files.paths, self.files.sizes, strict=True):
            sha.update(f"{name} {size}\n".encode())
        return sha.hexdigest()


def _check_single(content: bytes, name: str) -> None:
    """Raise ImageError for a DICOM file of several frames, which are listed in folders only."""
    frames = read_dicom_heading(BytesIO(content), name).frames
    if frames > 1:
        raise ImageError(f"expected one frame, got {frames}; copy the file into a folder")
