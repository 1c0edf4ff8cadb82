"""Files below a folder or a URL: list them, and read them with retries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from apercu.errors import ImageError, ImagesError, UnreachableError
from apercu.images.parquet import FileSystem

MAX_ATTEMPTS = 3
RETRY_PAUSE = 1.0
"""Seconds before a storage that did not answer is tried again; they double with each attempt."""
URL_SCHEMES = ("s3", "gs", "gcs", "abfs", "abfss", "hdfs", "file")

R = TypeVar("R")


@dataclass(frozen=True)
class RemoteFiles:
    """Files below one folder of a file system, or a single file.

    Attributes:
        url: the folder or file as the caller named it.
        file_system: the file system of the files.
        root: the folder, as the file system names it.
        paths: the files relative to the folder, in the order of their names.
        sizes: the sizes of the files in bytes.
        single: whether the URL names the file itself, not a folder.
    """

    url: str
    file_system: FileSystem = field(repr=False)
    root: str
    paths: tuple[str, ...] = field(repr=False)
    sizes: tuple[int, ...] = field(repr=False)
    single: bool = False

    @property
    def is_remote(self) -> bool:
        """Whether the files are on a storage that may be out of reach for a while."""
        return is_url(self.url) and not self.url.startswith("file:")

    def full_path(self, file: str) -> str:
        """Return the path of a file as the file system names it."""
        return f"{self.root}/{file}"

    def format_name(self, file: str) -> str:
        """Return the name of a file for errors; only the URL if it names the file itself."""
        return self.url if self.single else f"{self.url} {file}"

    def read_file(self, file: str) -> bytes:
        """Read the bytes of a file, with retries.

        Raises:
            ImageError: the file is missing, or access is denied.
            UnreachableError: the storage does not answer.
        """

        def read() -> bytes:
            with self.file_system.open_input_file(self.full_path(file)) as stream:
                content: bytes = stream.read()
                return content

        return read_with_retries(self.format_name(file), read)


def read_with_retries(name: str, read: Callable[[], R]) -> R:
    """Return what a function reads from a storage; it is called a few times if it fails.

    Args:
        name: the file, for error messages.
        read: reads the file; may raise OSError.

    Returns:
        The result of `read`.

    Raises:
        ImageError: the file is missing, or access is denied.
        UnreachableError: the storage does not answer.
    """
    for attempt in range(MAX_ATTEMPTS):
        try:
            return read()
        except (FileNotFoundError, PermissionError) as error:
            raise ImageError(f"{name}: cannot be read ({type(error).__name__})") from error
        except OSError as error:
            failed = error
        if attempt + 1 < MAX_ATTEMPTS:
            time.sleep(RETRY_PAUSE * 2**attempt)
    reason = " ".join(str(failed).split())
    raise UnreachableError(
        f"{name}: the storage does not answer ({reason[:200]}); run the same command again"
    ) from failed


def is_url(spec: str) -> bool:
    """Return whether images are named by a URL.

    >>> is_url("s3://bucket/photos"), is_url("photos/"), is_url("planted:size=32")
    (True, False, False)
    """
    scheme, separator, _ = spec.partition("://")
    return bool(separator) and scheme.isalnum()


def list_files(spec: str) -> RemoteFiles:
    """List the files below a folder, or find a single file, on this machine or behind a URL.

    Args:
        spec: a path or a URL.

    Returns:
        The visible files, in the order of their names.

    Raises:
        ImagesError: nothing has this name, or the kind of URL is unknown.
        UnreachableError: the storage does not answer.
    """
    import pyarrow as pa
    from pyarrow import fs

    if is_url(spec) and spec.partition(":")[0] not in URL_SCHEMES:
        raise ImagesError(f"{spec}: expected a URL of {', '.join(URL_SCHEMES)}")
    if is_url(spec) and not spec.partition("://")[2].partition("?")[0].strip("/"):
        raise ImagesError(f"{spec}: expected a bucket or a folder after it")
    try:
        system, path = fs.FileSystem.from_uri(spec if is_url(spec) else str(Path(spec).absolute()))
        info = system.get_file_info(path)
        if info.type == fs.FileType.Directory:
            below = system.get_file_info(fs.FileSelector(path, recursive=True))
            return _select_visible(spec, system, path, below)
    except UnicodeDecodeError as error:
        raise ImagesError(
            f"{spec}: holds a file whose name is not UTF-8; rename it, or give a folder of pictures"
        ) from error
    except (pa.ArrowException, ValueError) as error:
        raise ImagesError(f"{spec}: not a URL of images ({_format_reason(error)})") from error
    except OSError as error:
        raise UnreachableError(
            f"{spec}: the storage does not answer ({_format_reason(error)})"
        ) from error
    if info.type == fs.FileType.NotFound:
        raise ImagesError(f"{spec}: no such file or folder of images")
    root, _, name = path.rpartition("/")
    return RemoteFiles(spec, system, root, (name,), (info.size,), single=True)


def _select_visible(spec: str, system: FileSystem, root: str, below: list[Any]) -> RemoteFiles:
    """Return the files that are not hidden, in the order of their names."""
    sizes = {info.path[len(root) :].lstrip("/"): info.size for info in below if info.is_file}
    paths = sorted(path for path in sizes if not _is_hidden(path))
    return RemoteFiles(spec, system, root, tuple(paths), tuple(sizes[path] for path in paths))


def _is_hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _format_reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
