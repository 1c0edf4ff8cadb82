"""How a command ends: its exit code, one line on stderr for each error, and signals."""

from __future__ import annotations

import errno
import logging
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from apercu.cli.terminal import escape_controls, warn
from apercu.errors import ApercuError, FunctionError
from apercu.extras import describe_missing
from apercu.log import redirect_warnings

INTERRUPTED = 130
"""Exit code of a command that was interrupted."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that stop a command in order."""
_DISK_FULL = ("PytorchStreamWriter failed", "No space left on device")
"""Words of libraries that wrap the operating system's error in one of their own."""


class StoppedError(ApercuError):
    """The user pressed Ctrl-C; the message says what is kept and how to go on."""

    exit_code = INTERRUPTED


@contextmanager
def on_interrupt(consequence: str) -> Iterator[None]:
    """Turn Ctrl-C into `StoppedError`, even if Lightning has turned it into an exit.

    An error of a classifier's function gets the same advice.

    Args:
        consequence: what is kept, and how to continue.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(f"interrupted; {consequence}") from None
    except FunctionError as error:
        raise FunctionError(error.reason, consequence) from error.__cause__
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise StoppedError(f"interrupted; {consequence}") from None
        raise


def run_command(command: Callable[[], object], *, debug: bool) -> int:
    """Run a command and return its exit code; an error becomes one line on stderr."""
    try:
        with _show_warnings(debug):
            code = command()
    except Exception as raised:
        # typer takes the end of a file for the end of what is typed
        ended = isinstance(raised, typer.Abort) and isinstance(raised.__context__, EOFError)
        error = raised.__context__ if ended and raised.__context__ else raised
        if debug:
            traceback.print_exc()
        typer.echo(f"error: {_format_error(error, debug)}", err=True)
        return _find_exit_code(error)
    except KeyboardInterrupt:
        code = INTERRUPTED
    if code == INTERRUPTED:
        typer.echo("error: interrupted; nothing was begun", err=True)
    return code if isinstance(code, int) else 0


@contextmanager
def _show_warnings(debug: bool) -> Iterator[None]:
    """Show our own warnings on stderr; those of libraries and their logs only to debug."""
    with redirect_warnings(warn):
        if debug:
            yield
            return
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with warnings.catch_warnings(action="ignore"):
                yield
        finally:
            logging.disable(level)


def _format_error(error: BaseException, debug: bool) -> str:
    if _is_disk_full(error):
        return "no space left on the disk; free some and run the same command again"
    if isinstance(error, ApercuError):
        text = str(error)
    elif (usage := getattr(error, "format_message", None)) is not None:
        reason = usage().rstrip(".") or "A command is missing"  # its help was shown
        text = f"{reason}; see {_name_command(error)} --help"
    elif missing := _find_missing_module(error):
        text = missing
    elif _is_long_name(error):
        text = f"{error}; a name is longer than the system allows, choose a shorter one"
    elif isinstance(error, typer.Abort):
        text = "interrupted; nothing was begun"
    else:
        text = f"{type(error).__name__}: {error}"
        text += "" if debug else "; this should not happen: run again with --debug and report it"
    return escape_controls(" ".join(text.split()))


def _name_command(error: BaseException) -> str:
    context = getattr(error, "ctx", None)
    return "apercu" if context is None else str(context.command_path)


def _find_exit_code(error: BaseException) -> int:
    if _is_disk_full(error) or _is_long_name(error) or _find_missing_module(error):
        return 2
    if isinstance(error, typer.Abort):
        return INTERRUPTED
    code = getattr(error, "exit_code", 1)
    return code if isinstance(code, int) else 1


def _find_missing_module(error: BaseException) -> str | None:
    """Return what to install if an optional package is missing that nothing asked for before."""
    return describe_missing(error.name) if isinstance(error, ModuleNotFoundError) else None


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, ApercuError):
        return False
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error) for words in _DISK_FULL)


def _is_long_name(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG


def read_arguments() -> list[str]:
    """Return the arguments of the command line after `apercu`."""
    return sys.argv[1:]


def read_command() -> str:
    """Return the command line as a shell takes it, for reports that name it."""
    return shlex.join(["apercu", *read_arguments()])


@contextmanager
def graceful_signals() -> Iterator[None]:
    """Raise `KeyboardInterrupt` at the first Ctrl-C or SIGTERM, and ignore the next ones."""

    def stop(number: int, frame: FrameType | None) -> None:
        for ignored in STOP_SIGNALS:
            signal.signal(ignored, signal.SIG_IGN)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
