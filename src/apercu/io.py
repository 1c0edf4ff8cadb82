"""Files: written atomically, so that they are complete or do not exist; read without harm."""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from apercu.errors import InputError, OutputError, RunError, shorten

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""First characters of a cell that spreadsheets take for a formula."""

HASHES = "sha256.json"
"""File of a folder with the SHA-256 of the others; folders of older versions have none."""


def write_file(path: Path, content: bytes | str) -> Path:
    """Write a file and the folders above it; a reader never sees an incomplete file.

    Args:
        path: the file to write.
        content: its bytes, or its text, which is encoded as UTF-8.

    Returns:
        The path.

    Raises:
        OutputError: the disk is full, or the folder is read-only; an older file is kept.
    """
    data = content.encode() if isinstance(content, str) else content
    part = path.with_name(f".{path.name}.{uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, ValueError) as error:  # a name may hold a NUL
        with contextlib.suppress(OSError, ValueError):
            part.unlink()
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(
            f"{path}: cannot be written ({reason}); free some space or choose another folder"
        ) from error
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a mapping as JSON and return the path; NaN is refused; raises `OutputError`."""
    return write_file(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def keep_tensors(
    path: Path, compute: Callable[[], Mapping[str, Tensor]], names: Iterable[str] = ()
) -> dict[str, Tensor]:
    """Return the tensors of a file, which are computed and written where it does not hold them.

    Args:
        path: a safetensors file, whose name says what the tensors depend on. One that cannot be
            read, or lacks some of the names, is replaced.
        compute: returns the tensors by name.
        names: names that are needed.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        OutputError: the file cannot be written.
    """
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError, LookupError, ValueError):
        tensors = {}
    if not tensors or not set(names) <= tensors.keys():
        tensors = {name: values.cpu().contiguous() for name, values in compute().items()}
        write_file(path, save(tensors))
    return tensors


def parse_json(text: str | bytes) -> Any:
    """Parse JSON, whatever it holds.

    Raises:
        ValueError: it is no JSON, or is nested too deeply.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def format_csv_rows(rows: Iterable[Iterable[object]]) -> str:
    """Return rows as CSV whose texts no spreadsheet takes for formulas.

    A text that begins with `=`, `+`, `-`, `@`, a tab or a line break gets a `'` in front, which
    `unescape_cell` takes away; numbers stay as they are.

    >>> print(format_csv_rows([["name", "value"], ["=1+1.png", -0.5]]), end="")
    name,value
    '=1+1.png,-0.5
    """
    text = io.StringIO()
    plain = csv.writer(text, lineterminator="\n")
    all_quoted = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:
        cells = [_escape_cell(cell) if isinstance(cell, str) else cell for cell in row]
        has_break = any(isinstance(cell, str) and "\r" in cell for cell in cells)
        writer = all_quoted if has_break else plain  # `plain` quotes `\n` alone
        writer.writerow(cells)
    return text.getvalue()


def _escape_cell(cell: str) -> str:
    return f"'{cell}" if cell.lstrip("'").startswith(_FORMULA_STARTS) else cell


def unescape_cell(cell: str) -> str:
    """Return the text of a cell that `format_csv_rows` wrote.

    >>> unescape_cell("'=1+1.png"), unescape_cell("'quoted'")
    ('=1+1.png', "'quoted'")
    """
    escaped = cell.startswith("'") and cell.lstrip("'").startswith(_FORMULA_STARTS)
    return cell[1:] if escaped else cell


def expand_home(name: str) -> Path:
    """Return a folder with `~` as the home of the user; without one, `~` is a name like others."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def is_folder(path: Path) -> bool:
    """Whether there is such a folder; none has a name that is too long, or holds a NUL."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; none has a name that is too long, or holds a NUL."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_inside(path: Path, folder: Path) -> bool:
    """Whether a path stays inside a folder, once all links are followed."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL in the name
        return False


def write_hashes(folder: Path, names: Iterable[str]) -> Path:
    """Write `sha256.json`, with the SHA-256 of files of a folder, and return its path.

    Raises:
        OutputError: the folder cannot be written.
    """
    return write_json(folder / HASHES, {name: digest_file(folder / name) for name in names})


def check_digests(folder: Path, names: Collection[str], what: str, example: str) -> None:
    """Check that `sha256.json` of a folder loses no digests of other files when it is replaced.

    Args:
        folder: the folder, which need not exist.
        names: the files that the new list may name.
        what: what is written there, for the message, such as `a guard`.
        example: another folder, for the message.

    Raises:
        RunError: the list names other files, such as those of a run.
    """
    try:
        listed = parse_json((folder / HASHES).read_bytes())
    except (OSError, ValueError):  # there is no list, or it is damaged as the files may be
        return
    if isinstance(listed, dict) and not listed.keys() <= set(names):
        raise RunError(
            f"{folder}: holds other files, whose digests in {HASHES} {what} would replace; choose "
            f"a folder of its own, such as {example}"
        )


def find_changed_file(folder: Path, names: Iterable[str] | None = None) -> Path | None:
    """Return a file of a folder that is not as `sha256.json` says; None where all are.

    Args:
        folder: the folder; one of an older version has no such list, and is taken as it is.
        names: the files that matter; None for all that are listed.

    Returns:
        The first file that is missing or has another content, or the list if it is damaged.
    """
    path = folder / HASHES
    if not path.is_file():
        return None
    try:
        hashes = parse_json(path.read_bytes())
    except (OSError, ValueError):
        return path
    if not isinstance(hashes, dict) or not all(is_inside(folder / name, folder) for name in hashes):
        return path
    for name in hashes if names is None else [name for name in names if name in hashes]:
        try:
            if digest_file(folder / name) != hashes[name]:
                return folder / name
        except OSError:
            return folder / name
    return None


def describe_change(path: Path) -> str:
    """Return what is wrong with a file that `find_changed_file` returned."""
    if not path.exists():
        return "missing, though it was saved here"
    return "damaged, or not the file that was saved here"


def digest_file(path: str | Path) -> str:
    """Return the SHA-256 of the bytes of a file."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def create_folder(folder: Path) -> Iterator[None]:
    """Create a folder that can be written, for the work inside; if it stays empty, remove it again.

    Folders above it that were created, and hold nothing else, are removed as well.

    Raises:
        OutputError: the folder cannot be created or written.
    """
    folders = (folder, *folder.absolute().parents)
    try:
        missing = [path for path in folders if not path.exists()]
    except (OSError, ValueError) as error:  # a name that is too long, or holds a NUL
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"{folder}: cannot be written ({reason}); choose another name") from None
    existing = next(path for path in folders if path.exists())
    if not existing.is_dir():
        raise OutputError(f"{folder}: expected a folder, but {existing} is a file; choose another")
    try:
        write_file(folder / ".probe", b"").unlink(missing_ok=True)
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):
            for path in missing:
                path.rmdir()


def check_path(name: str, path: object) -> None:
    """Check that a caller gives the path of a file or a folder, as text or as a `Path`.

    Args:
        name: what the path belongs to, for the message.
        path: what was given.

    Raises:
        InputError: it is something else, such as a list or a table in memory, or no file can have
            such a name.

    >>> check_path("images", ["a.png"])
    Traceback (most recent call last):
    apercu.errors.InputError: images: expected the path of a file or a folder, got a list
    """
    if not isinstance(path, str | os.PathLike):
        kind = type(path).__name__
        raise InputError(f"{name}: expected the path of a file or a folder, got a {kind}")
    try:
        os.lstat(path)
    except ValueError:
        raise InputError(f"{name}: {shorten(str(path))} is no name, as it holds a NUL") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise InputError(
                f"{name}: {shorten(str(path))} is longer than a name can be; check it"
            ) from None


def check_writable(folder: Path) -> None:
    """Check that a folder can be written, or created, and leave nothing behind.

    Raises:
        OutputError: the folder cannot be created or written.
    """
    with create_folder(folder):
        pass


def write_map(path: Path, map: Float[Tensor, "height width"]) -> Path:
    """Write one float map as a NumPy `.npy` file and return the path; raises `OutputError`."""
    buffer = io.BytesIO()
    np.save(buffer, map.detach().cpu().numpy(), allow_pickle=False)
    return write_file(path, buffer.getvalue())
