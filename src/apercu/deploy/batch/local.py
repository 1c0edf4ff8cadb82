"""Folders, pictures, stacks and the planted set, as everything else in apercu opens them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import final

from apercu.deploy.batch.dataset import Dataset
from apercu.images import ImageSource, Planted
from apercu.images.folder import FolderImages
from apercu.types import Picture


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

    def name_of(self, index: int) -> str:
        return self.names[index]

    def read_picture(self, index: int) -> Picture:
        return self.source.picture(index)

    def compute_digest(self) -> str:
        sha = hashlib.sha256()
        if isinstance(self.source, FolderImages):
            for place in self.source.places:
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
