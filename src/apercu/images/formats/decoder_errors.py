"""Exceptions that decoders raise for damaged bytes."""

from __future__ import annotations

import lzma
import struct
import zipfile
import zlib

DECODER_ERRORS: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    NameError,
    OSError,
    RuntimeError,  # RecursionError and NotImplementedError too
    SyntaxError,
    TypeError,
    ValueError,  # UnicodeError too
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What Pillow, pydicom, astropy and the codecs below them raise while they read damaged bytes.

Everything that can be known from a header is checked before, with a message of its own; so these
mean that the bytes contradict each other.
"""
