"""What a data set is: a number of images, in an order, each with a name."""

from __future__ import annotations

import hashlib
import random
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import final

from apercu.classifiers import InputSpec
from apercu.deploy.batch.remote_files import RemoteFiles
from apercu.errors import ImageError
from apercu.images import ImageSource, Planted
from apercu.images.folder import FolderImages
from apercu.images.formats.dicom import is_dicom, read_dicom_heading
from apercu.images.reader import ReadOptions, read_stored
from apercu.types import Picture


class Dataset(ABC):
    """Images one at a time, in any order and from several threads; no picture is kept."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def get_name(self, index: int) -> str:
        """What an image is called in the data set, whether it can be read or not."""

    @abstractmethod
    def read_picture(self, index: int) -> Picture:
        """An image as it was stored, upright.

        Raises:
            InputError: it cannot be read, and will not be the next time.
            UnreachableError: where it lies cannot be reached now.
        """

    @abstractmethod
    def compute_digest(self) -> str:
        """SHA-256 over the names and sizes of all files, or over how images are generated.

        Another one means other images.
        """


@final
@dataclass(frozen=True, eq=False)
class RandomSubset(Dataset):
    """Some images of a data set, in its order.

    Args:
        images: of which they are drawn.
        limit: how many, at most.
        seed: of the draw.
    """

    images: Dataset
    limit: int
    seed: int
    indices: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        drawn = random.Random(self.seed).sample(range(count), min(self.limit, count))
        object.__setattr__(self, "indices", tuple(sorted(drawn)))

    def __len__(self) -> int:
        return len(self.indices)

    def get_name(self, index: int) -> str:
        return self.images.get_name(self.indices[index])

    def read_picture(self, index: int) -> Picture:
        return self.images.read_picture(self.indices[index])

    def compute_digest(self) -> str:
        return self.images.compute_digest()


@final
class SourceDataset(Dataset):
    """Images of a source; names are held.

    Args:
        source: of the images.
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
            for place in self.source.locations:
                line = f"{place.name} {_measure_file(self.source.path / place.file)}\n"
                sha.update(line.encode(errors="surrogateescape"))
            return sha.hexdigest()
        if isinstance(self.source, Planted):  # its name holds every setting
            return hashlib.sha256(self.source.name.encode()).hexdigest()
        sha.update(f"{_measure_file(Path(self.source.name))}\n".encode())
        for name in self.names:
            sha.update(f"{name}\n".encode())
        return sha.hexdigest()


def _measure_file(path: Path) -> int:
    """Bytes of a file; 0 where there is none, which is told when it is read."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


@final
class UrlDataset(Dataset):
    """One picture per file, at any depth of folders; names are held.

    Args:
        place: the files.
        input: says how many channels there are, and how bands are called.
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
    """Raises ImageError for a DICOM file of several frames, which are listed in folders only."""
    frames = read_dicom_heading(BytesIO(content), name).frames
    if frames > 1:
        raise ImageError(f"expected one frame, got {frames}; copy the file into a folder")
