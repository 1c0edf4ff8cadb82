"""A specification of images -> ImageSource."""

from __future__ import annotations

from pathlib import Path

from apercu.errors import ImagesError
from apercu.images.bands import check_bands
from apercu.images.listing import open_file, open_folder
from apercu.images.parquet import open_parquet
from apercu.images.planted import open_planted
from apercu.images.source import ImageSource
from apercu.images.stack import open_stack

_PLANTED = "planted"


def open_images(
    spec: str | Path, *, channels: int = 3, bands: tuple[str, ...] | None = None
) -> ImageSource:
    """Opens a folder, a picture, a Parquet file, a stack (`.npz`), or the planted set by its name.

    `planted` and `planted:classes=6,seed=3,…` (the fields of `Planted`) are generated; a folder of
    that name is `./planted`. Every picture comes with `channels` channels. `bands` names them in
    FITS files, whose bands may lie in any order; without it the first file that clearly names as
    many does, and where none does bands stay as they lie. Raises ImagesError for what is not there
    or holds no images, ConfigError for a misspelt setting of the planted set or names that cannot
    be channels.
    """
    check_bands(bands, channels)
    kind, _, settings = str(spec).partition(":")
    if kind == _PLANTED:
        return open_planted(settings, channels=channels)
    path = Path(spec)
    if path.is_dir():
        return open_folder(path, channels, bands)
    if not path.is_file():
        raise ImagesError(f"{path}: no such file or folder of images")
    if path.suffix.lower() == ".parquet":
        return open_parquet(path, channels)
    if path.suffix.lower() == ".npz":
        return open_stack(path, channels)
    return open_file(path, channels, bands)
