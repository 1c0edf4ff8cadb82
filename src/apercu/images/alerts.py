"""Alert packets of sky surveys in Avro: three stamps per alert, as one image of three bands."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BufferedReader, BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from apercu.errors import ImageError, ImagesError
from apercu.extras import require_extra
from apercu.images.formats.decoder_errors import DECODER_ERRORS
from apercu.images.formats.fits import decode_fits
from apercu.images.limits import inflate
from apercu.images.source import Item, UnlabelledFile, normalise_index
from apercu.io import parse_json

AVRO_MAGIC = b"Obj\x01"
SUFFIXES = (".avro",)
STAMPS = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
"""Fields with the stamps, in the order of the channels; each is a FITS file, perhaps gzip'ed."""
IDS = ("candid", "alertId", "diaSourceId", "objectId")
"""Fields that may hold the id of an alert; the first that a packet has is used."""

_RAW_DEFLATE = -15
_SYNC_BYTES = 16
_MAX_METADATA = 1 << 22  # bytes of one entry of the header


@dataclass(frozen=True, eq=False)
class AlertImages(UnlabelledFile):
    """The alerts of one Avro file; their ids are in memory, their stamps are not.

    Attributes:
        channels: how many of the stamps are read.
        offsets: where the block of each alert begins in the file, in bytes.
    """

    channels: int
    offsets: tuple[int, ...] = field(repr=False)

    def __getitem__(self, index: int) -> Item:
        index = normalise_index(index, len(self))
        offset = self.offsets[index]
        row = index - bisect_left(self.offsets, offset)
        for _, alert in islice(read_alerts(self.path, offset), row, None):
            return Item(self.ids[index], self._read_stamps(alert, index), None, None, None)
        raise ImageError(f"{self.path}: damaged, has no alert {index + 1}")

    def _read_stamps(self, alert: dict[str, Any], index: int) -> torch.Tensor:
        """Return the stamps of an alert, `3 × height × width`, raw counts."""
        stamps: list[torch.Tensor] = []
        for keyword in STAMPS[: self.channels]:
            name = f"{self.path} {self.ids[index]} {keyword}"
            stamp = alert.get(keyword)
            content = stamp.get("stampData") if isinstance(stamp, dict) else stamp
            if not isinstance(content, bytes):
                raise ImageError(f"{name}: expected the bytes of a FITS file, got none")
            pixels = decode_fits(BytesIO(content), name, channels=1).pixels
            if stamps and stamps[0].shape[1:] != pixels.shape[1:]:
                raise ImageError(f"{name}: expected stamps of one size")
            stamps.append(torch.from_numpy(pixels))
        return torch.cat(stamps)


def open_alerts(path: Path, channels: int) -> AlertImages:
    """Open an Avro file of alert packets, such as ZTF's, and read the ids.

    Args:
        path: the file.
        channels: 3 for science, template and difference; 1 or 2 take the first ones.

    Returns:
        The alerts.

    Raises:
        ImagesError: the file is damaged, has no alerts, or they have no stamps.
        MissingExtraError: fastavro or astropy is not installed.
    """
    require_extra("alerts", str(path))
    if not 1 <= channels <= len(STAMPS):
        raise ImagesError(
            f"{path}: alerts have {len(STAMPS)} stamps ({', '.join(STAMPS)}), expected 1 to "
            f"{len(STAMPS)} channels, got {channels}"
        )
    ids: list[str] = []
    offsets: list[int] = []
    taken: set[str] = set()
    for offset, alert in read_alerts(path):
        if not isinstance(alert, dict) or not all(key in alert for key in STAMPS[:channels]):
            raise ImagesError(f"{path}: expected alerts with {', '.join(STAMPS[:channels])}")
        name = next((str(alert[key]) for key in IDS if alert.get(key) is not None), "")
        ids.append(name if name and name not in taken else f"{name or 'alert'}-{len(ids) + 1}")
        taken.add(ids[-1])
        offsets.append(offset)
    if not ids:
        raise ImagesError(f"{path}: no images, the file has no alerts")
    return AlertImages(path, tuple(ids), channels, tuple(offsets))


def read_alerts(path: Path, start: int | None = None) -> Iterator[tuple[int, Any]]:
    """Yield the records of an Avro file, one block in memory at a time.

    Args:
        path: the file, in the codec null or deflate.
        start: where the first block that is read begins, in bytes; None reads all of them.

    Yields:
        Where the block of a record begins, in bytes, and the record.

    Raises:
        ImagesError: the file is damaged, cut short, unpacks to too much, or has another codec.
    """
    from fastavro import parse_schema, schemaless_reader
    from fastavro.schema import SchemaParseException

    errors: tuple[type[Exception], ...] = (*DECODER_ERRORS, SchemaParseException)
    try:
        with path.open("rb") as stream:
            metadata = _read_metadata(stream, path)
            content = parse_json(metadata["avro.schema"])
            if _is_recursive(content):
                raise ImagesError(
                    f"{path}: expected alerts, but the schema of the file contains itself; "
                    "choose another file"
                )
            schema = parse_schema(content)
            sync = stream.read(_SYNC_BYTES)
            if start is not None:
                stream.seek(start)
            while stream.peek(1):
                offset = stream.tell()
                count, size = _read_long(stream), _read_long(stream)
                packed = stream.read(size) if size >= 0 else b""
                if len(packed) != size or stream.read(_SYNC_BYTES) != sync:
                    raise ImagesError(f"{path}: damaged or cut short, a block has no end")
                block = _unpack(packed, metadata.get("avro.codec", b"null"), path)
                for _ in range(count):
                    yield offset, schemaless_reader(block, schema, None)
    except OSError as error:
        raise ImagesError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ImageError as error:  # of a block that unpacks to too much
        raise ImagesError(str(error)) from error
    except errors as error:
        raise ImagesError(f"{path}: damaged or cut short ({type(error).__name__})") from error


def _is_recursive(schema: Any, outer: frozenset[str] = frozenset()) -> bool:
    """Return whether records hold records of their own kind, on which fastavro crashes."""
    if isinstance(schema, str):
        return schema.rpartition(".")[2] in outer
    if isinstance(schema, list):
        return any(_is_recursive(part, outer) for part in schema)
    if not isinstance(schema, dict):
        return False
    if isinstance(schema.get("fields"), list):
        outer |= {str(schema.get("name")).rpartition(".")[2]}
        return any(_is_recursive(part, outer) for part in schema["fields"])
    return any(_is_recursive(schema.get(key), outer) for key in ("type", "items", "values"))


def _unpack(packed: bytes, codec: bytes, path: Path) -> BytesIO:
    """Unpack a block within limits."""
    if codec == b"null":
        return BytesIO(packed)
    if codec == b"deflate":
        return inflate(packed, str(path), _RAW_DEFLATE)
    raise ImagesError(f"{path}: packed as {codec.decode('latin-1')}, expected null or deflate")


def _read_metadata(stream: BufferedReader, path: Path) -> dict[str, bytes]:
    """Read the header of an Avro file."""
    if stream.read(len(AVRO_MAGIC)) != AVRO_MAGIC:
        raise ImagesError(f"{path}: no Avro file, or one that is damaged")
    metadata: dict[str, bytes] = {}
    while count := _read_long(stream):
        if count < 0:  # then the size of the block follows
            count = -count
            _read_long(stream)
        for _ in range(count):
            key = _read_bytes(stream)
            metadata[key.decode()] = _read_bytes(stream)
    return metadata


def _read_bytes(stream: BufferedReader) -> bytes:
    """Read bytes with their length before them."""
    length = _read_long(stream)
    content = stream.read(length) if 0 <= length <= _MAX_METADATA else b""
    if len(content) != length:
        raise EOFError
    return content


def _read_long(stream: BufferedReader) -> int:
    """Read a number of variable length in zigzag encoding."""
    number, shift = 0, 0
    while shift < 64:
        byte = stream.read(1)
        if not byte:
            raise EOFError
        number |= (byte[0] & 0x7F) << shift
        shift += 7
        if byte[0] < 0x80:
            return (number >> 1) ^ -(number & 1)
    raise ValueError("a number is too long")
