"""Names of files: their suffixes, the ids of images in them, and bytes that are not UTF-8."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Return whether the name of a file ends in one of the suffixes, such as `.fits.gz`.

    >>> has_suffix("M31.FITS.gz", [".fits.gz"]), has_suffix("M31.gz", [".fits.gz"])
    (True, False)
    """
    return name.lower().endswith(tuple(suffixes))


def escape_undecodable(name: str) -> str:
    r"""Return a name that can be written as UTF-8; other bytes of a file name become escapes.

    >>> escape_undecodable("café.jpg"), escape_undecodable("caf\udce9.jpg")
    ('café.jpg', 'caf\\xe9.jpg')
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shorten_name(name: str, most: int = 150) -> str:
    """Return a name of a file short enough for suffixes; a digest tells it from others.

    Args:
        name: The name, without folders.
        most: Largest number of bytes; file systems take 255 with all suffixes.

    Returns:
        The name, or its beginning with eight digits of its SHA-256.

    >>> shorten_name("scan"), len(shorten_name("x" * 244))
    ('scan', 150)
    """
    encoded = name.encode("utf-8", "surrogateescape")
    if len(encoded) <= most:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return encoded[: most - 9].decode("utf-8", "ignore") + f"-{digest}"


def strip_suffix(name: str, suffixes: Iterable[str]) -> str:
    """Return the name of a file without its folders and its suffix.

    >>> strip_suffix("g/J0042.7+4116.fits.gz", [".fits", ".fits.gz"])
    'J0042.7+4116'
    """
    last = name.rsplit("/", 1)[-1]
    lengths = [len(suffix) for suffix in suffixes if has_suffix(last, (suffix,))]
    return last[: len(last) - max(lengths, default=0)]


def split_id(spec: str | Path) -> tuple[Path, str | None]:
    """Split `scan.tif#2` into the path of the file and the id of an image in it.

    Args:
        spec: path of a file or folder, which may end in an id.

    Returns:
        The path and the id; the whole path and None where it exists, or no file is named.
    """
    path, mark, id = str(spec).rpartition("#")
    if not mark or Path(spec).exists() or not Path(path).is_file():
        return Path(spec), None
    return Path(path), id
