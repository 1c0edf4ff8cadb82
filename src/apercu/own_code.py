"""Code from outside the package: what `package.module:NAME` or `FILE.py:NAME` imports, and which
version of it that is.

Whoever calls `import_attribute` runs code. So only texts that a person typed come here, or those of
a file that is trusted (`apercu.classifiers.trust`).
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import lru_cache
from hashlib import sha256
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from apercu.errors import (
    LIBRARY_ERRORS,
    ClassifierError,
    ConfigError,
    MissingModuleError,
    first_line,
    suggest_nearest,
)
from apercu.io import is_file

CODE_ERRORS = (*LIBRARY_ERRORS, NameError, SyntaxError)
"""What code from outside raises when it is imported or called with what it does not expect."""
_TOKENS: WeakKeyDictionary[Any, str] = WeakKeyDictionary()
"""What stands for a source that cannot be known, so that no other process takes it for the same."""
DIGITS = 16
"""Hexadecimal digits of a digest of code."""
_LIBRARIES = tuple(
    Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib")
)
"""Folders of Python and of installed packages, whose code is no part of a digest."""


def import_attribute(source: str, label: str, *, search_here: bool = True) -> Any:
    """Import what a text names; its module is searched in the working directory first.

    Args:
        source: `package.module:NAME` or `FILE.py:NAME`.
        label: the start of an error line, such as `classifier mine:make`.
        search_here: whether the module may lie in the working directory.

    Returns:
        The attribute.

    Raises:
        MissingModuleError: there is no such module or file.
        ClassifierError: the module needs another one that is missing, or has no such attribute.
    """
    name, _, attribute = source.rpartition(":")
    path = Path(name) if name.endswith(".py") else None
    if path is not None and not is_file(path):
        raise MissingModuleError(f"{label}: no such file as {path.resolve()}")
    folder, name = (Path.cwd(), name) if path is None else _find_package(path)
    try:
        with _search_first(folder) if search_here else nullcontext():
            module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise ClassifierError(
                f"{label}: {name} needs the module {error.name}, which is not installed"
            ) from None
        raise MissingModuleError(
            f"{label}: no module named {error.name}, neither in this folder "
            f"({folder}) nor on PYTHONPATH; go to the folder that holds it"
        ) from None
    file = getattr(module, "__file__", None)
    if path is not None and (file is None or Path(file).resolve() != path.resolve()):
        raise ClassifierError(f"{label}: another module is called {name} ({file}); rename the file")
    try:
        return getattr(module, attribute)
    except AttributeError:
        suggestion = suggest_nearest(attribute, vars(module))
        raise ClassifierError(f"{label}: {name} has no {attribute}{suggestion}") from None


def import_own(source: str, option: str) -> Any:
    """Import a method or a metric that was typed.

    Args:
        source: `package.module:NAME` or `FILE.py:NAME`.
        option: the option that it was typed for, for error messages.

    Returns:
        What has that name.

    Raises:
        ConfigError: there is no such module or name, or the module cannot be imported.
    """
    try:
        return import_attribute(source, f"{option}: {source}")
    except ClassifierError as error:
        raise ConfigError(str(error)) from None
    except CODE_ERRORS as error:
        raise ConfigError(
            f"{option}: {source}: the module cannot be imported: {type(error).__name__} "
            f"({first_line(error)})"
        ) from error


def check_arguments(function: Callable[..., Any], names: tuple[str, ...], label: str) -> None:
    """Check that a function can be called with so many arguments, by their position.

    Args:
        function: the function, or an object that is called.
        names: what it will be called with, in words.
        label: the start of the error line.

    Raises:
        ConfigError: it takes fewer arguments, or needs more.
    """
    try:
        parameters = signature(function)
    except (TypeError, ValueError):  # some functions that are written in C have none
        return
    try:
        parameters.bind(*names)
    except TypeError:
        expected = ", ".join(names)
        raise ConfigError(
            f"{label}: expected a function of ({expected}), got one of {parameters}"
        ) from None


def digest_code(owner: Callable[..., Any]) -> str | None:
    """Return a digest of the source that a class or function comes from.

    It covers the files of its module and of all modules that this one imports, without installed
    packages, as they were when they were first asked for.

    Args:
        owner: the class or function.

    Returns:
        The digest; None where the source cannot be known: in a notebook, inside another function,
        or without a file.
    """
    if "<" in getattr(owner, "__qualname__", "<"):
        return None
    return _digest_module(sys.modules.get(owner.__module__))


def identify_code(owner: Callable[..., Any]) -> str:
    """Return a digest of the source, or a text that only this object has in this process."""
    return digest_code(owner) or _TOKENS.setdefault(owner, f"process {uuid4().hex}")


@lru_cache
def _digest_module(module: ModuleType | None) -> str | None:
    files: dict[str, Path] = {}
    waiting = [module]
    root = "" if module is None else module.__name__.partition(".")[0]
    while waiting:
        each = waiting.pop()
        if each is None or each.__name__ in files or not _is_own(each, root):
            continue
        files[each.__name__] = Path(str(each.__file__))
        for value in list(vars(each).values()):
            name = getattr(value, "__module__", None)
            waiting.append(value if isinstance(value, ModuleType) else sys.modules.get(str(name)))
    if module is None or module.__name__ not in files:
        return None
    digest = sha256()
    for name, path in sorted(files.items()):
        digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]


def _is_own(module: ModuleType, root: str) -> bool:
    """Whether a module is a source file of the root package, or of no installed package."""
    name, file = module.__name__.partition(".")[0], getattr(module, "__file__", None)
    if name == "apercu" or not (isinstance(file, str) and file.endswith(".py")):
        return False
    if not is_file(Path(file)):
        return False
    path = Path(file).resolve()
    return name == root or not any(path.is_relative_to(folder) for folder in _LIBRARIES)


def _find_package(path: Path) -> tuple[Path, str]:
    """Return the folder from which a file is imported, and the name of its module there.

    A file in a package is imported as part of it.
    """
    path = path.resolve()
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.append(folder.name)
        folder = folder.parent
    return folder, ".".join(reversed(names))


@contextmanager
def hide_script() -> Iterator[None]:
    """Let processes that are started in the block leave the script of this one alone.

    A spawned process first runs the script, to have its functions. A script without
    `if __name__ == "__main__"` would begin all of its work again in each of them. What is sent to
    such a process must not be of a class that the script defines.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def end_with_parent() -> None:
    """End this process when the one that started it has ended, even if that was killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextmanager
def _search_first(folder: Path) -> Iterator[None]:
    """Search a folder for modules before all others; afterwards it is the last one.

    What the module imports later, while it works, is still found there.
    """
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))
