"""List the pictures below a folder: plain files only, at any depth, links to themselves too."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from apercu.errors import ImagesError
from apercu.images.folder import MASKS_FOLDER
from apercu.images.label_tables import Label
from apercu.log import warn

EVERYTHING = "**"
"""End of a path that means all pictures at any depth, without labels."""
SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev"))
"""Names of folders that are parts of a data set, not classes."""
MAX_NAMED = 3
"""Files that are named in one line."""

_UNREAD = frozenset(
    (".jp2", ".j2k", ".jxl", ".psd", ".svg", ".ppm", ".pgm", ".pbm", ".pnm", ".ico", ".tga",
     ".exr", ".hdr", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".nrrd",
     ".nii", ".nii.gz", ".mha", ".jpg2", ".jpf", ".jpx", ".j2c", ".jpc", ".pcx", ".dds", ".dib")
)  # fmt: skip
"""Suffixes of pictures that are not read."""
_BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n", b"GIF8", b"II*\0", b"MM\0*", b"SIMPLE  =")
"""First bytes of pictures, which may have another suffix than theirs, or none."""


@dataclass(eq=False)
class Listing:
    """What stands below a folder.

    Attributes:
        path: the folder.
        files: pictures, as paths relative to the folder, sorted.
        left_out: files that are no plain files, by kind.
        unread: number of pictures that are not read, by suffix, which may be empty.
    """

    path: Path
    files: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    unread: Counter[str] = field(default_factory=Counter)


def list_pictures(path: Path, is_picture: Callable[[Path], bool]) -> Listing:
    """List the pictures of a folder at any depth, without hidden files and without masks/.

    Args:
        path: the folder.
        is_picture: whether a plain file is a picture, by its name or its first bytes.

    Returns:
        The pictures, and what was left out.

    Raises:
        ImagesError: the folder cannot be listed.
    """
    listing = Listing(path)
    _walk(path, PurePosixPath(), listing, is_picture, set())
    listing.files.sort(key=lambda file: PurePosixPath(file).parts)
    _warn_of_left_out(listing)
    return listing


def _walk(
    path: Path,
    below: PurePosixPath,
    listing: Listing,
    is_picture: Callable[[Path], bool],
    above: set[tuple[int, int]],
) -> None:
    """Add the pictures of a folder and of its sub-folders; a folder inside itself is left out."""
    try:
        status = path.stat()
        with os.scandir(path) as entries:
            names = sorted(entry.name for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise ImagesError(f"{path}: cannot be listed ({error.strerror})") from error
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        listing.left_out.append(f"{below} (a link to a folder above it)")
        return
    for name in names:
        inner, relative = path / name, below / name
        if inner.is_dir():
            if str(relative) != MASKS_FOLDER:
                _walk(inner, relative, listing, is_picture, above | {identity})
        elif not inner.is_file():
            listing.left_out.append(f"{relative} (no plain file)")
        elif is_picture(inner):
            listing.files.append(str(relative))
        elif (suffix := _find_unread_suffix(inner)) is not None:
            listing.unread[suffix] += 1


def _find_unread_suffix(path: Path) -> str | None:
    """Return the suffix of a picture that is not read, empty for none; None for other files."""
    for suffix in (path.suffix.lower(), "".join(path.suffixes[-2:]).lower()):
        if suffix in _UNREAD:
            return suffix
    try:
        with path.open("rb") as stream:
            start = stream.read(12)
    except OSError:
        return None
    is_webp = start[:4] == b"RIFF" and start[8:] == b"WEBP"
    return path.suffix.lower() if is_webp or start.startswith(_BEGINNINGS) else None


def _warn_of_left_out(listing: Listing) -> None:
    """Warn of what was left out, one line for each reason."""
    if listing.left_out:
        warn_left_out(listing.path, listing.left_out)
    for suffix, count in sorted(listing.unread.items()):
        those = f"end in {suffix}, which is not read"
        if not suffix:
            those = "are pictures without a suffix; add that of their format"
        warn(f"{listing.path}: left out {count} that {those}")


def warn_left_out(path: Path, names: Iterable[str]) -> None:
    """Warn that files of a folder are left out.

    Args:
        path: the folder.
        names: the files, each with the reason.
    """
    listed = list(names)
    more = f" and {len(listed) - MAX_NAMED} more" if len(listed) > MAX_NAMED else ""
    warn(f"{path}: left out {', '.join(listed[:MAX_NAMED])}{more}")


def label_by_folder(path: Path, files: list[str]) -> tuple[Label, ...] | None:
    """Return the label of each picture, its folder; None if all lie in the opened folder itself.

    A folder inside a class belongs to the class. Folders above all pictures are passed over.

    Args:
        path: the opened folder.
        files: pictures, as paths relative to the folder.

    Returns:
        One label per picture.

    Raises:
        ImagesError: there are pictures both in the folder and in folders below it, or the folders
            are parts of a data set.
    """
    parts = [PurePosixPath(file).parts for file in files]
    plain = [file for file, names in zip(files, parts, strict=True) if len(names) == 1]
    if len(plain) == len(files):
        return None
    classes = {names[0] for names in parts if len(names) > 1}
    if plain:
        raise ImagesError(
            f"{path}: expected either images or one folder per class, got both "
            f"({len(plain)} images, first {plain[0]}, and {len(classes)} folders of images); "
            f"{path}/{EVERYTHING} reads all of them without labels"
        )
    depth = 0
    while all(len(names) > depth + 2 for names in parts) and len({n[depth] for n in parts}) == 1:
        depth += 1
    labels = tuple(names[depth] for names in parts)
    is_deeper = any(len(names) > depth + 2 for names in parts)
    if is_deeper and {label.lower() for label in labels} <= SPLITS:
        raise ImagesError(
            f"{path}: holds parts of a data set; open a folder inside, such as "
            f"{path.joinpath(*parts[0][: depth + 1])}, or {path}/{EVERYTHING} without labels"
        )
    return labels
