"""Names of files: their suffixes, the ids of images in them, and bytes that are not UTF-8."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath

_ARCHIVES = (b"PK\x03\x04", b"PK\x05\x06", b"Rar!\x1a\x07", b"7z\xbc\xaf\x27\x1c")
"""First bytes of ZIP, RAR and 7z; a TAR archive has its word further on."""
ARCHIVE_SUFFIXES = (
    ".zip",
    ".rar",
    ".7z",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.bz2",
    ".tar.xz",
    ".tar.zst",
)
UNPACK = "not an image, but an archive; unpack it, and name its images or their folder"


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Return whether the name of a file ends in one of the suffixes, such as `.fits.gz`.

    >>> has_suffix("M31.FITS.gz", [".fits.gz"]), has_suffix("M31.gz", [".fits.gz"])
    (True, False)
    """
    return name.lower().endswith(tuple(suffixes))


def is_archive(start: bytes) -> bool:
    r"""Return whether a file packs other files, such as a ZIP or TAR archive.

    Args:
        start: its first bytes, at least 262 where it has them.

    Returns:
        True for ZIP, TAR and the like.

    >>> is_archive(b"PK\x03\x04..."), is_archive(b"\x89PNG")
    (True, False)
    """
    return start.startswith(_ARCHIVES) or start[257:262] == b"ustar"


def escape_undecodable(name: str) -> str:
    r"""Return a name that can be written as UTF-8; other bytes of a file name become escapes.

    >>> escape_undecodable("café.jpg"), escape_undecodable("caf\udce9.jpg")
    ('café.jpg', 'caf\\xe9.jpg')
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def shorten_name(name: str, most: int = 150) -> str:
    """Return a name of a file short enough for suffixes; a digest tells it from others.

    Args:
        name: the name, without folders.
        most: largest number of bytes; file systems take 255 with all suffixes.

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


def make_file_stem(id: str) -> str:
    """Return the name, without suffix, of a file for an object with some id.

    >>> make_file_stem("NGC 1300/b"), make_file_stem(".5")
    ('NGC_1300_b', '_.5')
    """
    name = shorten_name(re.sub(r"[^\w.+-]", "_", id))
    return "_" * name.startswith(".") + name


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


def match_names(
    names: Sequence[str],
    files: Collection[str],
    table: Path,
    folder: Path | None = None,
    stack: Path | None = None,
) -> dict[int, list[str]]:
    """Match the files that a table names with images.

    A file is a path relative to the images, to the folder around them or to that of the table, or
    an absolute one, with either kind of slash; of images in one file it is their id, or the path of
    the file with `#` and the id. Where no file of the table is such a path, those without a folder
    name the image that is called so in any folder, if there is only one; if none is, these are
    names without their suffix; and if none is, files are paths on another machine that end in the
    folder of the images and the path of an image in it.

    Args:
        names: names of the images.
        files: the files that the table names.
        table: the folder of the table.
        folder: the folder of the images; None where they are no files of a folder.
        stack: the file that holds all images; None where each is a file.

    Returns:
        The files of each image that has any, by its index, in the order of the images.

    >>> match_names(["a.png", "b/c.png"], ["c", "a"], Path("t"))
    {0: ['a'], 1: ['c']}
    >>> match_names(["a#1.png"], ["films/a#1.png"], Path("t"), folder=Path("films"))
    {0: ['films/a#1.png']}
    >>> match_names(["a.png"], ["D:\\\\films\\\\a.png"], Path("t"), folder=Path("films"))
    {0: ['D:\\\\films\\\\a.png']}
    """
    written = {file.replace("\\", "/"): file for file in files} | {file: file for file in files}
    matched: dict[int, list[str]] = {}
    for index, name in enumerate(names):
        paths = [name, _strip_page(name)]
        if folder is not None:
            paths += _list_paths(_strip_page(name), folder, table)
        if stack is not None:
            inside = (stack.name, *_list_paths(stack.name, stack.parent, table))
            paths += [f"{path}#{name}" for path in inside]
        if found := [written[path] for path in paths if path in written]:
            matched[index] = list(dict.fromkeys(found))
    bare = {file for file in files if not {"/", "\\"} & set(file)}
    for part in ("name", "stem"):
        matched = matched or _match_ends(bare, names, part)
    if matched or folder is None:
        return matched
    return _match_moved([f"{folder.name}/{_strip_page(name)}" for name in names], written)


def _strip_page(name: str) -> str:
    """Return the file of an image; `scan.tif` of `scan.tif#2`, but all of `a#1.png`."""
    file, _, page = name.rpartition("#")
    return file if file and page.isdecimal() else name


def _list_paths(name: str, folder: Path, table: Path) -> Iterator[str]:
    """Yield all paths by which a table may name a file of a folder."""
    path = folder / name
    yield PurePosixPath(os.path.relpath(path, table)).as_posix()
    yield f"{folder.name}/{name}"
    yield path.absolute().as_posix()
    yield path.resolve().as_posix()


def _match_ends(files: Collection[str], names: Collection[str], part: str) -> dict[int, list[str]]:
    """Match the last part of the images' paths (`name`), or that without its suffix (`stem`)."""
    ends = [getattr(PurePosixPath(_strip_page(name)), part) for name in names]
    counts = Counter(ends)
    return {index: [end] for index, end in enumerate(ends) if counts[end] == 1 and end in files}


def _match_moved(paths: Sequence[str], written: dict[str, str]) -> dict[int, list[str]]:
    """Match images with files whose paths end in theirs; none where two files end in the same."""
    wanted, files = set(paths), dict[str, set[str]]()
    for path, file in written.items():
        parts = path.split("/")
        for start in range(1, len(parts) - 1):
            if (end := "/".join(parts[start:])) in wanted:
                files.setdefault(end, set()).add(file)
    if any(len(found) > 1 for found in files.values()):
        return {}
    return {index: [*files[path]] for index, path in enumerate(paths) if path in files}
