"""The errors of the runtime: a part of the error tree of apercu.

    ApercuError                 exit 1, status 500
    └── InputError              exit 2, status 422   the caller can correct it
        ├── ImageError          a file is not an image, or not one that fits
        ├── TargetError         the classifier has no such class
        ├── ConfigError         a setting is misspelt or out of range
        └── RunError            an exported folder is incomplete, damaged, or of another version

Each error is one line: what was wrong, what was expected, what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ApercuError(Exception):
    """Root of the tree; holds the exit code of a command line and a server's HTTP status."""

    exit_code = 1
    status = 500

    def _render_traceback_(self) -> list[str]:
        """Return what IPython and notebooks show of the error: one line."""
        return [f"{type(self).__name__}: {self}"]


class InputError(ApercuError):
    """Something that the caller passed in is wrong."""

    exit_code = 2
    status = 422


class ImageError(InputError):
    """A file is not an image, or not one that can be used."""


class TargetError(InputError):
    """The classifier has no such class."""


class ConfigError(InputError):
    """A setting is misspelt or out of range."""


class RunError(InputError):
    """An exported folder is incomplete, damaged, or of another version."""


def suggest_nearest(word: str, candidates: Iterable[str]) -> str:
    """Return the end of an error line that suggests the nearest candidate; empty without one."""
    names = {name.casefold(): name for name in candidates}
    close = difflib.get_close_matches(word.casefold(), names, n=1, cutoff=0.6)
    return f"; did you mean {names[close[0]]}?" if close else ""
