"""Which functions of Python may be called to build a classifier.

A card, a file of settings or a run folder may come from anybody, so that a `package.module:factory`
that is named there is not called. It is called when a person typed it, on the command line or in
Python, or trusts the file (`--trust`, `trust=True`); so are the factories of this package.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from apercu.classifiers.fingerprint import FORMER_FACTORIES
from apercu.errors import UntrustedError

OWN_FACTORIES = frozenset({*FORMER_FACTORIES, *FORMER_FACTORIES.values()})
"""Factories of this package, which every card may name."""

_FACTORY = re.compile(r"[\w./\\ -]*:[A-Za-z_]\w*")
_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=False)
_TYPED: set[str] = set()
"""Factories that were typed in this process; their code has run already."""


@contextmanager
def trusting(trust: bool = True) -> Iterator[None]:
    """Let files name functions that are called, and hold programs of any kind, within a block.

    Args:
        trust: whether the files are trusted; False changes nothing.

    Example:
        >>> with trusting():
        ...     is_trusting()
        True
    """
    token = _TRUSTING.set(trust or _TRUSTING.get())
    try:
        yield
    finally:
        _TRUSTING.reset(token)


def is_trusting() -> bool:
    """Return whether the files that are opened now are trusted."""
    return _TRUSTING.get()


def remember_typed(spec: str) -> None:
    """Remember that a person typed a SPEC; cards may name it from then on, without options."""
    _TYPED.add(spec)


def check_factory(source: str, options: Mapping[str, Any]) -> None:
    """Check that a factory may be called.

    Args:
        source: `package.module:factory`.
        options: arguments of the factory, as a card gives them.

    Raises:
        UntrustedError: neither is it typed or one of this package, nor is the file trusted.
    """
    typed = source in _TYPED and not options
    if not (typed or source in OWN_FACTORIES or is_trusting()):
        hint = "" if options else f"type it yourself (--classifier {source}), or "
        raise UntrustedError(
            f"refused, it wants to call {source}, which runs code of this machine; "
            f"{hint}add --trust (in Python trust=True) if you trust this file"
        )


def check_spec_of_file(spec: str, origin: str) -> None:
    """Check a SPEC that stands in a file and was not typed.

    Args:
        spec: SPEC of a classifier.
        origin: the file or the setting, for the error.

    Raises:
        UntrustedError: it is a factory that may not be called.
    """
    if _FACTORY.fullmatch(spec):
        try:
            check_factory(spec, {})
        except UntrustedError as error:
            raise UntrustedError(f"{origin}: {error}") from None
