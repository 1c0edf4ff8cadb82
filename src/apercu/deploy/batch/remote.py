"""Pictures behind a URL."""

from __future__ import annotations

import hashlib
from io import BytesIO
from typing import final

from apercu.classifiers import InputSpec
from apercu.deploy.batch.dataset import DataSet
from apercu.deploy.batch.places import Place
from apercu.errors import ImageError
from apercu.images.formats.dicom import is_dicom, read_heading
from apercu.images.reader import Asked, read_stored
from apercu.types import Picture


@final
class Remote(DataSet):
    """One picture per file, at any depth of folders; names are held.

    Args:
        place: the files.
        input: says how many channels there are, and how bands are called.
    """

    def __init__(self, place: Place, input: InputSpec) -> None:
        self.place = place
        self.asked = Asked(input.channels, bands=input.bands)

    def __len__(self) -> int:
        return len(self.place.files)

    def name_of(self, index: int) -> str:
        return self.place.files[index]

    def picture(self, index: int) -> Picture:
        name = self.name_of(index)
        content = self.place.read(name)
        try:
            if is_dicom(content):
                _check_single(content, name)
            return read_stored(content, self.asked).picture
        except ImageError as error:
            raise ImageError(f"{name}: {error}") from error

    def digest(self) -> str:
        sha = hashlib.sha256()
        for name, size in zip(self.place.files, self.place.sizes, strict=True):
            sha.update(f"{name} {size}\n".encode())
        return sha.hexdigest()


def _check_single(content: bytes, name: str) -> None:
    """Raises ImageError for a DICOM file of several frames, which are listed in folders only."""
    frames = read_heading(BytesIO(content), name).frames
    if frames > 1:
        raise ImageError(f"expected one frame, got {frames}; copy the file into a folder")
