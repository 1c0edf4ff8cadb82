"""What the result in a folder was begun with, so that it is only continued in the same way.

Every verb that fills a folder over a long time has the same question: was something begun here,
and with the same settings? `RunRecord` answers it, and keeps a second process out of the folder.
`Phase` keeps the state of one part of the work, so that it is continued where it was.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from apercu.errors import ConfigError, InputError, OutputError, RunError
from apercu.io import create_folder, write_file
from apercu.progress import ProgressCallback, ignore_progress

M = TypeVar("M", bound=BaseModel)

LOCK = ".lock"
"""File whose lock a process holds while it works in a folder; the system releases it on a crash."""
SAVE_EVERY = 60.0
"""Seconds after which the state of a phase is kept again."""
DAMAGES: tuple[type[Exception], ...] = (
    *(OSError, EOFError, RuntimeError, ValueError, LookupError, TypeError),
    *(zipfile.BadZipFile, zlib.error, pickle.UnpicklingError),
)
"""What is raised for a damaged file of a state, by `load_state` or by what reads the content."""
_LOCKED: set[Path] = set()
"""Folders that are locked by this process, as its own locks do not stop it."""
_CHANGES = Lock()
"""Held while a thread changes `_LOCKED`."""


class RunState(Enum):
    """What a folder holds when work in it begins."""

    NEW = "new"
    RESUMED = "resumed"
    EXTENDED = "extended"
    FINISHED = "finished"


@dataclass(frozen=True)
class RunRecord:
    """Everything that the result in a folder depends on.

    Args:
        folder: the folder of the result.
        parts: what it depends on, by the name of the JSON file that holds it.
        noun: the result in error messages, such as `training`.
        finished_by: file that exists when the result is complete; None where there is no such file.
        on_request: whether begun work is only continued on request, and finished work never begun
            again. Otherwise both are simply continued.
        ignored: names, with dots between the levels, of what may differ.
        growing: names of the numbers that may be larger when the work is continued, with their
            options; a finished result is then continued, too.
    """

    folder: Path
    parts: Mapping[str, BaseModel]
    noun: str
    finished_by: str | None = None
    on_request: bool = False
    ignored: frozenset[str] = frozenset()
    growing: Mapping[str, str] = field(default_factory=dict)

    @contextmanager
    def begin(self, *, resume: bool = True) -> Iterator[RunState]:
        """Begin or continue the work, and keep other processes out of the folder until it ends.

        Work that is refused (InputError) before it writes anything leaves no record. A process
        that Lightning started for a further device works without the lock, and neither
        writes nor checks anything.

        Args:
            resume: whether begun work may be continued, where that needs a request.

        Yields:
            Whether the work is new, resumed, finished, or extended: finished, and continued.

        Raises:
            RunError: the folder holds other work, or work that is not to be continued, or another
                process works there.
            OutputError: the folder cannot be written.
        """
        if os.environ.get("LOCAL_RANK", "0") != "0":
            yield RunState.RESUMED
            return
        with lock_folder(self.folder):
            state = self._check(resume=resume)
            if state is not RunState.EXTENDED:  # else they describe the result that is still there
                self._write_parts()
            try:
                yield state
            except InputError:
                if state is RunState.NEW:
                    self._remove_parts()
                raise
            self._write_parts()

    def _write_parts(self) -> None:
        """Write the files that are missing, and those whose growing numbers have grown."""
        for name, part in self.parts.items():
            path = self.folder / name
            if not path.is_file() or (self.growing and self._has_grown(name, part)):
                write_file(path, part.model_dump_json(indent=1) + "\n")

    def _remove_parts(self) -> None:
        """Remove the record of work that was refused before anything else was written."""
        if {path.name for path in self.folder.iterdir()} <= {LOCK, *self.parts}:
            for name in self.parts:
                (self.folder / name).unlink(missing_ok=True)

    def _has_grown(self, name: str, part: BaseModel) -> bool:
        before = _flatten(read_part(self.folder / name, type(part)).model_dump(mode="json"))
        now = _flatten(part.model_dump(mode="json"))
        return any(now.get(key, 0) > before.get(key, 0) for key in self.growing)

    def _check(self, *, resume: bool) -> RunState:
        """Return what the folder holds; raises RunError where it cannot be continued."""
        parts = {name: part for name, part in self.parts.items() if (self.folder / name).is_file()}
        if not parts:
            return RunState.NEW
        finished = self.finished_by is not None and (self.folder / self.finished_by).is_file()
        grown = any(self._has_grown(name, part) for name, part in parts.items())
        if self.on_request and finished and not (resume and grown):
            options = " and ".join(f"a larger {option}" for option in self.growing.values())
            advice = f"continue it with --resume and {options}, or " if options else ""
            raise RunError(
                f"{self.folder}: holds a finished {self.noun}; {advice}choose another --out"
            )
        if self.on_request and not resume:
            raise RunError(
                f"{self.folder}: a {self.noun} was begun here; continue it with --resume, or "
                "choose another --out"
            )
        for name, part in parts.items():
            before = read_part(self.folder / name, type(part))
            self.compare(before.model_dump(mode="json"), part.model_dump(mode="json"))
        if finished:
            return RunState.EXTENDED if grown else RunState.FINISHED
        return RunState.RESUMED

    def compare(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
        """Compare what the result depends on, as JSON gives it.

        Args:
            before: values of the work that the folder holds, by name; they may be nested.
            now: values of the work that begins.

        Raises:
            RunError: a value is another one now; the message names the first.
        """
        earlier, present = _flatten(before), _flatten(now)
        for name in dict.fromkeys((*present, *earlier)):  # what is left out now counts, too
            old, new = earlier.get(name), present.get(name)
            both = name in earlier and name in present
            if both and name in self.growing and present[name] > earlier[name]:
                continue
            if name not in self.ignored and old != new:
                raise RunError(
                    f"{self.folder}: the {self.noun} begun here had {name} {_show(old)}, now "
                    f"{_show(new)}; use the same, or choose another --out"
                )


def load_state(path: Path) -> dict[str, Any]:
    """Load what `torch.save` wrote, on the CPU, after all its checksums are compared.

    Args:
        path: the file; only tensors, numbers and containers are read from it.

    Returns:
        The content.

    Raises:
        Exception: one of `DAMAGES`, where the file is damaged.
    """
    import torch

    with zipfile.ZipFile(path) as archive:
        if (name := archive.testzip()) is not None:
            raise zipfile.BadZipFile(name)
    return dict(torch.load(path, weights_only=True, map_location="cpu"))


@dataclass
class Phase:
    """One part of long work, which says how far it is and keeps its state from time to time.

    Args:
        name: the name of the work, such as `student steps`.
        report: receives the name, how much is done, and how much there is.
        path: the file of the state; None where nothing is kept.
        key: what the state depends on; a state with another key is not loaded.
        save_every: seconds after which the state is kept again; those of all phases when None.
    """

    name: str
    report: ProgressCallback = ignore_progress
    path: Path | None = None
    key: str = ""
    save_every: float | None = None
    _kept_at: float = field(init=False, repr=False, default_factory=time.monotonic)

    def load(self) -> dict[str, Any]:
        """Return the state that was kept last; empty where there is none.

        Raises:
            RunError: the file is damaged.
        """
        if self.path is None or not self.path.is_file():
            return {}
        try:
            content = load_state(self.path)
            return dict(content["state"]) if content["key"] == self.key else {}
        except DAMAGES as error:
            raise RunError(f"{self.path}: damaged; remove it, and this part begins anew") from error

    def note(
        self, done: int, total: int, make_state: Callable[[], Mapping[str, Any]] | None = None
    ) -> None:
        """Report how much is done, and keep the state if it is time.

        Args:
            done: how much is done.
            total: how much there is.
            make_state: returns the state: tensors, numbers and containers of them.

        Raises:
            OutputError: the state cannot be written.
        """
        self.report(self.name, done, total)
        wait = SAVE_EVERY if self.save_every is None else self.save_every
        is_due = time.monotonic() - self._kept_at >= wait
        if make_state is not None and is_due and done < total:
            self.save(make_state())

    def save(self, state: Mapping[str, Any]) -> None:
        """Keep the state now; raises OutputError where it cannot be written."""
        if self.path is None or os.environ.get("LOCAL_RANK", "0") != "0":
            return
        import torch

        content = io.BytesIO()
        torch.save({"key": self.key, "state": dict(state)}, content)
        write_file(self.path, content.getvalue())
        self._kept_at = time.monotonic()

    def remove(self) -> None:
        """Remove the state, when the result of the phase is kept elsewhere."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)


def read_part(path: Path, model: type[M]) -> M:
    """Read one file of a record.

    Raises:
        RunError: it is damaged.
    """
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValidationError, ConfigError) as error:
        raise RunError(f"{path}: cannot be read; choose another --out") from error


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Keep other processes of this machine, and other calls of this one, out of a folder.

    The folder is created, and removed again where nothing was written there. The system releases
    the lock when the process ends, even if it is killed and processes that it started live on.

    Raises:
        RunError: another process or call works there.
        OutputError: the folder cannot be written.
    """
    is_new = not folder.exists()
    with create_folder(folder), _lock(folder.resolve() / LOCK, folder):
        try:
            yield
        finally:  # before it is released; see _open_lock
            if is_new and [path.name for path in folder.iterdir()] == [LOCK]:
                (folder / LOCK).unlink(missing_ok=True)


@contextmanager
def lock_output(out: Path) -> Iterator[None]:
    """Keep others away from a file or a folder that is written at once, and leave no file there.

    Args:
        out: the file, or the folder, which need not exist.

    Raises:
        RunError: another process or call writes it.
        OutputError: the folder around it cannot be written.
    """
    path = out.resolve()
    folder = path if path.is_dir() else path.parent
    lock = path / LOCK if path.is_dir() else path.with_name(f".{path.name}{LOCK}")
    with create_folder(folder), _lock(lock, out):
        try:
            yield
        finally:  # before it is released; see _open_lock
            with contextlib.suppress(OSError):
                lock.unlink()


@contextmanager
def _lock(path: Path, name: Path) -> Iterator[None]:
    """Hold the lock of a file."""
    busy = RunError(
        f"{name}: another apercu process works here; wait for it, or choose another --out"
    )
    with _CHANGES:
        if path in _LOCKED:
            raise busy
        _LOCKED.add(path)
    handle = None
    try:
        handle = _open_lock(path)
        if handle is None:
            raise busy
        yield
    finally:
        if handle is not None:
            os.close(handle)
        with _CHANGES:
            _LOCKED.discard(path)


def _open_lock(path: Path) -> int | None:
    """Return the handle of a locked file; None if another process holds the lock.

    The file may have been removed by the process that held the lock; then it is opened again.
    """
    while True:
        try:
            handle = os.open(path, os.O_CREAT | os.O_RDWR, 0o644)
        except OSError as error:
            reason = error.strerror or error
            raise OutputError(f"{path.parent}: cannot be written ({reason})") from error
        if not _try_lock(handle):
            os.close(handle)
            return None
        try:
            if os.path.samestat(os.fstat(handle), path.stat()):
                return handle
        except FileNotFoundError:
            pass
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Lock an open file for this process; return whether no other process holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows has no such lock
        return True
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # unlike flock, forks do not inherit it
    except OSError:
        return False
    return True


def _flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values by their names with dots between the levels.

    >>> _flatten({"seed": 0, "schedule": {"steps": 2}})
    {'seed': 0, 'schedule.steps': 2}
    """
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _show(value: Any) -> str:
    """Return a value for an error message; long ones, such as a digest, are shortened."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}…"
