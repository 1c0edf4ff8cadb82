"""Which rows of a table of labels belong to which images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from apercu.images import ImageSource
from apercu.images.folder import FolderImages


def match_files(files: Collection[str], table: Path, source: ImageSource) -> dict[int, list[str]]:
    """Return the files of a table that name each image, by the index of the image.

    A file is a path relative to the images, to the folder around them or to that of the table, or
    an absolute one, with either kind of slash. Where no file of the table is such a path, those
    without a folder name the image that is called so in any folder, if there is only one; and if
    none is, these are names without their suffix.

    Args:
        files: the files that the table names.
        table: where the table lies.
        source: the images.

    Returns:
        The files of each image that has any, in the order of the images.
    """
    folder = source.path if isinstance(source, FolderImages) else None
    written = {file.replace("\\", "/"): file for file in files} | {file: file for file in files}
    matched: dict[int, list[str]] = {}
    for index, name in enumerate(source.names):
        paths = _list_paths(name, folder, table.parent)
        if found := [written[path] for path in paths if path in written]:
            matched[index] = list(dict.fromkeys(found))
    bare = {file for file in files if not {"/", "\\"} & set(file)}
    for part in ("name", "stem"):
        matched = matched or _match_ends(bare, source.names, part)
    return matched


def _list_paths(name: str, folder: Path | None, table: Path) -> list[str]:
    """Return all paths by which a table may name an image."""
    plain = name.rpartition("#")[0] or name
    if folder is None:
        return [name, plain]
    inside = folder / plain
    beside = PurePosixPath(os.path.relpath(inside, table)).as_posix()
    absolute = (inside.absolute().as_posix(), inside.resolve().as_posix())
    return [name, plain, beside, f"{folder.name}/{plain}", *absolute]


def _match_ends(files: Collection[str], names: Collection[str], part: str) -> dict[int, list[str]]:
    """Match the last part of the images' paths (`name`), or that without its suffix (`stem`)."""
    ends = [getattr(PurePosixPath(name.rpartition("#")[0] or name), part) for name in names]
    counts = Counter(ends)
    return {index: [end] for index, end in enumerate(ends) if counts[end] == 1 and end in files}
