"""Bodies of requests as clients send them → plain bytes: compressed, as a form, or as base64."""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from apercu.deploy.serving.errors import (
    BadRequestError,
    TooLargeError,
    UnsupportedEncodingError,
)
from apercu.errors import ImageError

IMAGE = "image"
"""Name of the field that holds the file."""
MAX_FIELDS, MAX_FIELD_SIZE = 28, 4096
"""Fields of a form beside its file; bytes of each."""

_GZIP, _ZLIB, _RAW_DEFLATE = 31, 15, -15  # wbits of zlib
_STEP = 1 << 20
_URL_SAFE, _SPACES = bytes.maketrans(b"-_", b"+/"), b" \t\r\n\v\f"


def decompress_body(body: bytes, codings: str, limit: int) -> bytes:
    """Undo the `Content-Encoding` of a body.

    Args:
        body: bytes of the request.
        codings: value of the header; empty for a body as it is.
        limit: bytes that it may become.

    Returns:
        The body as it was before it was compressed.

    Raises:
        UnsupportedEncodingError: the coding is neither gzip nor deflate, or there are several.
        BadRequestError: the bytes are damaged or cut short.
        TooLargeError: it becomes larger than the limit.

    >>> decompress_body(zlib.compress(b"{}"), "deflate", 100)
    b'{}'
    """
    names = [word for word in re.split(r"[,\s]+", codings.lower()) if word not in ("", "identity")]
    if not names:
        return body
    if names[1:] or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise UnsupportedEncodingError(
            f"body: expected Content-Encoding gzip or deflate, got {codings[:80]}; send it as it is"
        )
    if names[0] != "deflate":
        return _inflate(body, _GZIP, limit)
    is_zlib = len(body) > 1 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _inflate(body, _ZLIB if is_zlib else _RAW_DEFLATE, limit)


def _inflate(body: bytes, wbits: int, limit: int) -> bytes:
    pieces, size, rest = [], 0, body
    decompressor = zlib.decompressobj(wbits)
    while not decompressor.eof:
        try:
            piece = decompressor.decompress(rest, _STEP)
        except zlib.error:
            raise _make_compression_error() from None
        rest = decompressor.unconsumed_tail
        if not piece and not rest and not decompressor.eof:
            raise _make_compression_error()
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            raise TooLargeError(
                f"body: expected at most {limit / 1e6:g} MB unpacked; send a smaller image"
            )
    if decompressor.unused_data:
        raise _make_compression_error()
    return b"".join(pieces)


def _make_compression_error() -> BadRequestError:
    return BadRequestError("body: damaged or cut short, it cannot be decompressed")


def decode_base64(text: str) -> bytes:
    """Decode base64 of either alphabet, with or without padding and line breaks, or a data: URI.

    Args:
        text: the field of a request.

    Returns:
        The bytes of the file.

    Raises:
        ImageError: it is neither.

    >>> decode_base64("data:image/gif;base64,R0lG\\r\\nODlh"), decode_base64("R0lGOA")
    (b'GIF89a', b'GIF8')
    """
    text = text.strip()
    scheme = text[:8].lower()
    if scheme.startswith("data:"):
        head, comma, text = text.partition(",")
        if not comma:
            raise ImageError("image: expected data:…;base64,… with a comma")
        if not head.lower().rstrip().endswith(";base64"):
            return unquote_to_bytes(text)
        if "%" in text:
            text = unquote_to_bytes(text).decode("latin-1")
    elif scheme.startswith(("http:", "https:", "file:")):
        raise ImageError(
            "image: expected the bytes of a file in base64, got an address; the server fetches "
            "nothing"
        )
    try:
        plain = text.encode("ascii").translate(_URL_SAFE, _SPACES).rstrip(b"=")
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"image: expected base64, got something else ({error})") from error


@dataclass
class FormPart:
    """One part of a form.

    Attributes:
        name: name of the field.
        is_file: whether the part has a file name, or is the image.
        content: bytes of the part.
    """

    name: str
    is_file: bool
    content: bytes = b""

    @property
    def text(self) -> str:
        """The content of a field."""
        return _decode_text(self.content)

    @property
    def image(self) -> bytes:
        """The content of a file; a data: URI, as a canvas of a browser gives it, is decoded."""
        if self.content[:5].lower() == b"data:":
            return decode_base64(_decode_text(self.content))
        return self.content


class _FormReader:
    """Collects the parts that the parser of python-multipart finds."""

    def __init__(self) -> None:
        self.parts: list[FormPart] = []
        self._open: FormPart | None = None
        self._pieces: list[bytes] = []
        self._size = 0
        self._header, self._value = b"", b""
        self._disposition, self._transfer = b"", b""

    def on_part_begin(self) -> None:
        self._open, self._pieces, self._size = None, [], 0
        self._disposition, self._transfer = b"", b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        match self._header.lower():
            case b"content-disposition":
                self._disposition = self._value
            case b"content-transfer-encoding":
                self._transfer = self._value.strip().lower()
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._disposition)
        if b"name" not in options:
            raise make_form_error("a part has no name")
        if self._transfer not in (b"", b"binary", b"7bit", b"8bit", b"base64"):
            raise make_form_error("a part has an unknown Content-Transfer-Encoding")
        name = _decode_text(options[b"name"])
        has_file_name = any(key.startswith(b"filename") for key in options)
        self._open = FormPart(name, has_file_name or name == IMAGE)
        others = sum(part.is_file == self._open.is_file for part in self.parts)
        most = 1 if self._open.is_file else MAX_FIELDS
        if others >= most:
            raise make_form_error(f"at most {most} {'file' if self._open.is_file else 'fields'}")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self._size += end - start
        if self._open is not None and not self._open.is_file and self._size > MAX_FIELD_SIZE:
            raise make_form_error(f"a field has at most {MAX_FIELD_SIZE} bytes")
        self._pieces.append(data[start:end])

    def on_part_end(self) -> None:
        if self._open is not None:
            content = b"".join(self._pieces)
            if self._transfer == b"base64":
                content = decode_base64(_decode_text(content))
            self._open.content = content
            self.parts.append(self._open)


def parse_form(content_type: str, body: bytes) -> list[FormPart]:
    """Read the parts of a form, in memory; a part without end is left out.

    Args:
        content_type: header of the request, with the boundary.
        body: bytes of the request.

    Returns:
        The parts in their order.

    Raises:
        BadRequestError: the form is not well formed, or has too many or too large parts.
    """
    _, options = parse_options_header(content_type)
    if not (boundary := options.get(b"boundary")):
        raise make_form_error("the boundary is missing")
    reader = _FormReader()
    start = body.find(b"--" + boundary)
    if start > 0 and body[start - 2 : start] == b"\r\n":  # a preamble, which has no meaning
        body = body[start:]
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": reader.on_part_begin,
                "on_header_field": reader.on_header_field,
                "on_header_value": reader.on_header_value,
                "on_header_end": reader.on_header_end,
                "on_headers_finished": reader.on_headers_finished,
                "on_part_data": reader.on_part_data,
                "on_part_end": reader.on_part_end,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise make_form_error(type(error).__name__) from error
    return reader.parts


def make_form_error(reason: str) -> BadRequestError:
    """Return the error of a form that is not well formed."""
    return BadRequestError(f"body: expected a well-formed form ({reason})")


def _decode_text(content: bytes) -> str:
    """Return the text of a name or field: UTF-8, else Latin-1."""
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content.decode("latin-1")
