"""Pictures behind a URL."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import final

from apercu.classifiers import InputSpec
from apercu.deploy.batch.dataset import Dataset
from apercu.deploy.batch.places import RemoteFiles
from apercu.errors import ImageError
from apercu.images.formats.dicom import is_dicom, read_heading
from apercu.images.reader import Asked, read_stored
from apercu.types import Picture


@final
class UrlDataset(Dataset):
    """One picture per file, at any depth of folders; names are held.

    Args:
        place: the files.
        input: says how many channels there are, and how bands are called.
    """

    def __init__(self, place: RemoteFiles, input: InputSpec) -> None:
        self.files = place
        self.reading_options = Asked(input.channels, bands=input.bands)

    def __len__(self) -> int:
        return len(self.files.files)

    def name_of(self, index: int) -> str:
        return self.files.files[index]

    def read_picture(self, index: int) -> Picture:
        name = self.name_of(index)
        content = self.files.read_file(name)
        try:
            if is_dicom(content):
                _check_single(content, name)
            return read_stored(content, self.reading_options).picture
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def compute_digest(self) -> str:
        sha = hashlib.sha256()
        for name, size in zip(self.files.files, self.files.sizes, strict=True):
            sha.update(f"{name} {size}\n".encode())
        return sha.hexdigest()


def _check_single(content: bytes, name: str) -> None:
    """Raises ImageError for a DICOM file of several frames, which are listed in folders only."""
    frames = read_heading(BytesIO(content), name).frames
    if frames > 1:
        raise ImageError(f"expected one frame, got {frames}; copy the file into a folder")
