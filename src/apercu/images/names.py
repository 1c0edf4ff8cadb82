"""Names of files: what they end in, and what is left without it."""

from __future__ import annotations

from collections.abc import Iterable


def has_suffix(name: str, suffixes: Iterable[str]) -> bool:
    """Whether a file's name ends in one of the suffixes, of which some have two parts.

    >>> ends_like("M31.FITS.gz", [".fits.gz"]), ends_like("M31.gz", [".fits.gz"])
    (True, False)
    """
    return name.lower().endswith(tuple(suffixes))


def escape_undecodable(name: str) -> str:
    r"""A name that UTF-8 can hold; bytes of a file's name that are none are written as escapes.

    >>> printable("café.jpg"), printable("caf\udce9.jpg")
    ('café.jpg', 'caf\\xe9.jpg')
    """
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def strip_suffix(name: str, suffixes: Iterable[str]) -> str:
    """A name without its folders and its suffix; dots that belong to the name stay.

    >>> stem("g/J0042.7+4116.fits.gz", [".fits", ".fits.gz"])
    'J0042.7+4116'
    """
    last = name.rsplit("/", 1)[-1]
    found = [len(suffix) for suffix in suffixes if has_suffix(last, (suffix,))]
    return last[: len(last) - max(found, default=0)]
