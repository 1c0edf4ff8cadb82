"""All errors of the package, as one tree.

    ApercuError                 exit 1, status 500
    ├── InputError              exit 2, status 422   the caller can correct it
    │   ├── ImageError          a file is not an image, or not one that can be used
    │   │   └── NoPixelsError       a file of a format of images that holds something else
    │   ├── ImagesError         a folder, table or Parquet file of images is wrong
    │   ├── ClassifierError     a classifier cannot be opened or does not fit
    │   │   ├── UntrustedError      a file wants to run code, and nobody said that it may
    │   │   ├── MissingModuleError  the module of a factory is not found
    │   │   ├── NoWeightsError      the pretrained weights of a name cannot be had here
    │   │   ├── NotFiniteError      logits or maps of some images are NaN or infinite
    │   │   └── FunctionError       the function of a black box failed
    │   ├── TargetError         the classifier has no such class
    │   ├── ConfigError         a setting is misspelt or out of range
    │   │   ├── MissingExtraError   an optional package is not installed
    │   │   └── NoFeatureMapsError  a classifier cannot be its own encoder
    │   └── RunError            a run folder is incomplete or belongs to another classifier
    ├── OutputError             exit 2, status 507   results cannot be written
    └── UnreachableError        exit 1, status 503   a storage or a cluster cannot be reached now

Each error is one line: what was wrong, what was expected, what to do. A notebook shows this line
instead of a traceback; `%xmode Verbose` brings the traceback back. `WorkInterrupted` is no error,
and so no part of the tree: it is how Ctrl-C and a notebook's stop button end long work.
"""

from __future__ import annotations

import difflib
import reprlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class ApercuError(Exception):
    """Root of the tree; holds the exit code of the command line and the server's HTTP status."""

    exit_code = 1
    status = 500

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks show of the error: one line."""
        return format_for_notebook(self)


class InputError(ApercuError):
    """Something that the caller passed in is wrong."""

    exit_code = 2
    status = 422


class ImageError(InputError):
    """A file is not an image, or not one that can be used."""


class NoPixelsError(ImageError):
    """A file of a format of images holds no image, such as a report among DICOM files."""


class ImagesError(InputError):
    """A folder, table or Parquet file of images is wrong."""


class ClassifierError(InputError):
    """A classifier cannot be opened, or does not fit the request."""


class UntrustedError(ClassifierError):
    """A file wants to run code of this machine, or holds such code, and is not trusted."""


class MissingModuleError(ClassifierError):
    """The module of a factory is neither in this folder nor on the path of Python."""


class NoWeightsError(ClassifierError):
    """A name of a library has no pretrained weights, or they cannot be downloaded."""


class NotFiniteError(ClassifierError):
    """Logits, probabilities or maps of some images are NaN or infinite.

    Args:
        subject: what is not finite, such as `classifier mine: its output`.
        rows: the places of these images in their batch, from 0.
        count: the number of images in the batch.
        names: the names of all images of the batch, where they are known.
    """

    def __init__(
        self, subject: str, rows: Sequence[int], count: int, names: Sequence[str] = ()
    ) -> None:
        self.subject, self.rows, self.count, self.names = subject, tuple(rows), count, names
        if names:
            more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
            which, where = f"{names[rows[0]]}{more}", ""
        elif count == 1:
            which, where = "the image", ""
        else:
            which, where = f"{len(rows)} of {count} images", f", the first is image {rows[0] + 1}"
        super().__init__(
            f"{subject} for {which} is not a number (NaN) or infinite{where}; check the weights, "
            "and what is computed of such images"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.subject, self.rows, self.count, self.names)

    def name_row(self, name: str) -> NotFiniteError:
        """Return the error of one of the images, by its name."""
        return NotFiniteError(self.subject, (0,), 1, (name,))


@contextmanager
def name_images(names: Sequence[str]) -> Iterator[None]:
    """Name the images in a `NotFiniteError` of a block, which knows their places alone.

    Args:
        names: the names of the images of the batch.

    Raises:
        NotFiniteError: with the names.
    """
    try:
        yield
    except NotFiniteError as error:
        if len(names) != error.count:
            raise
        raise NotFiniteError(error.subject, error.rows, error.count, names) from error


class FunctionError(ClassifierError):
    """The function of a black box failed; a run that keeps what it did says how to go on.

    Args:
        reason: the classifier, and what its function raised.
        consequence: what is kept, and how to go on, where somebody knows it.
    """

    def __init__(self, reason: str, consequence: str = "") -> None:
        super().__init__(f"{reason}; {consequence}" if consequence else reason)
        self.reason = reason


class TargetError(InputError):
    """The classifier has no class of that name or index."""


class ConfigError(InputError):
    """A setting is misspelt or out of range."""


class MissingExtraError(ConfigError):
    """An optional package is not installed; the message says which extra brings it."""


class NoFeatureMapsError(ConfigError):
    """A classifier shows no layers, or none that are maps, so it cannot be an encoder."""


class RunError(InputError):
    """A run folder is incomplete, damaged, or belongs to another classifier."""


class OutputError(ApercuError):
    """Results cannot be written, because the disk is full or the folder is read-only."""

    exit_code = 2
    status = 507


class UnreachableError(ApercuError):
    """A remote storage or a cluster cannot be reached now; the same command may succeed later."""

    status = 503


class WorkInterrupted(KeyboardInterrupt):
    """Long work was interrupted; the message says what is kept and how to go on."""

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks show of the interruption: one line."""
        return format_for_notebook(self)


@contextmanager
def describe_interrupt(consequence: str) -> Iterator[None]:
    """Turn the interruption of a block into `WorkInterrupted`.

    An error of a classifier's function gets the same advice.

    Args:
        consequence: what is kept, and how to go on.

    Raises:
        WorkInterrupted: the block was interrupted.
        FunctionError: a classifier's function failed in it.
    """
    try:
        yield
    except FunctionError as error:
        raise FunctionError(error.reason, consequence) from error.__cause__
    except KeyboardInterrupt:
        raise WorkInterrupted(f"interrupted; {consequence}") from None


LIBRARY_ERRORS = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, ImportError, LookupError),
    *(OSError, RuntimeError, TypeError, ValueError),
)
"""What libraries raise for names, options and files that are wrong."""


def format_for_notebook(error: BaseException) -> list[str]:
    """Return the lines that IPython shows of an error: one, or the traceback in `%xmode Verbose`.

    >>> format_for_notebook(ImageError("cat.jpg: not an image"))
    ['ImageError: cat.jpg: not an image']
    """
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(getattr(shell, "InteractiveTB", None), "mode", "") == "Verbose":
        lines: list[str] = shell.InteractiveTB.structured_traceback(
            type(error), error, error.__traceback__
        )
        return lines
    return [f"{type(error).__name__}{_locate_in_cell(error.__traceback__, shell)}: {error}"]


def _locate_in_cell(step: TracebackType | None, shell: Any) -> str:
    """Return the innermost line of a notebook's cells that an error passed; empty without one."""
    name_cell = getattr(getattr(shell, "compile", None), "format_code_name", lambda file: None)
    where = ""
    while step is not None:
        if cell := name_cell(step.tb_frame.f_code.co_filename):
            where = f" ({' '.join(cell)}, line {step.tb_lineno})"
        step = step.tb_next
    return where


def shorten(value: object, limit: int = 80) -> str:
    """Return a value as text of one line for an error; a long one is cut.

    >>> shorten([1, 2, 3]), shorten("a" * 100, 5)
    ('[1, 2, 3]', "'aaaa…")
    """
    shortener = reprlib.Repr()
    shortener.maxlevel, shortener.maxlong = 3, limit
    shortener.maxstring = shortener.maxother = 2 * limit + 20
    text = shortener.repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def format_shape(shape: Iterable[int]) -> str:
    """Return the lengths of the axes of a tensor or an array, for an error.

    >>> format_shape((8, 3, 64, 64)), format_shape(())
    ('8 × 3 × 64 × 64', 'one number')
    """
    return " × ".join(map(str, shape)) or "one number"


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error, or its kind where it has no message.

    >>> first_line(ValueError("\\n no such file \\n at all")), first_line(AssertionError())
    ('no such file', 'AssertionError')
    """
    lines = str(error).strip().splitlines()
    if lines and lines[0].endswith("TorchScript interpreter."):  # the reason stands at the end
        lines = [line.partition("RuntimeError: ")[2] or line for line in lines[-1:]]
    return lines[0].strip() if lines else type(error).__name__


def suggest_nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the end of an error line that suggests the nearest candidate; empty if none is near.

    Args:
        word: the word that was not recognised.
        candidates: the words that would have been valid.

    Returns:
        `; did you mean …?`, or an empty string.

    >>> suggest_nearest("mobilnet", ["mobilenet", "resnet"])
    '; did you mean mobilenet?'
    """
    names = {name.casefold(): name for name in candidates}
    close = difflib.get_close_matches(word.casefold(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]}?" if close else ""
