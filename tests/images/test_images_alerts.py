"""Alert packets in Avro against stamps by hand, and files that are damaged or too large."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from apercu.errors import ImageError, ImagesError, MissingExtraError
from apercu.images import open_images
from apercu.images.alerts import open_alerts

fastavro = pytest.importorskip("fastavro")

STAMP = {
    "type": "record",
    "name": "cutout",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
NAMES = ("cutoutScience", "cutoutTemplate", "cutoutDifference")
SCHEMA = fastavro.parse_schema(
    {
        "type": "record",
        "name": "alert",
        "fields": [
            {"name": "candid", "type": "long"},
            {"name": NAMES[0], "type": ["null", STAMP]},
            *({"name": name, "type": ["null", "cutout"]} for name in NAMES[1:]),
        ],
    }
)


def make_alert(number: int) -> dict[str, Any]:
    alert: dict[str, Any] = {"candid": 10**18 + number}
    for band, name in enumerate(NAMES):
        stream = io.BytesIO()
        pixels = np.full((5, 4), 100 * number + band, np.float32)
        fits.PrimaryHDU(pixels).writeto(stream)
        alert[name] = {"fileName": "x.fits.gz", "stampData": gzip.compress(stream.getvalue())}
    return alert


def write_alerts(path: Path, alerts: list[dict[str, Any]], codec: str = "null") -> Path:
    with path.open("wb") as stream:
        fastavro.writer(stream, SCHEMA, alerts, codec=codec, sync_interval=4000)
    return path


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_stamps_are_bands(tmp_path: Path, codec: str) -> None:
    path = write_alerts(tmp_path / "a.avro", [make_alert(number) for number in range(5)], codec)
    source = pickle.loads(pickle.dumps(open_images(path)))
    assert source.names == tuple(str(10**18 + number) for number in range(5))
    assert source[3].picture.shape == (3, 5, 4)
    assert source[3].picture[:, 0, 0].tolist() == [300, 301, 302]
    assert open_images(path, channels=1)[-1].picture[:, 0, 0].tolist() == [400]


def test_one_image_is_read_without_the_blocks_before_it(tmp_path: Path) -> None:
    path = write_alerts(tmp_path / "a.avro", [make_alert(number) for number in range(60)])
    source = open_alerts(path, 3)
    assert len(set(source.offsets)) > 2
    content = bytearray(path.read_bytes())
    content[source.offsets[0] + 40] ^= 0xFF
    content[source.offsets[-1] - 1] ^= 0xFF  # the end of the block before
    path.write_bytes(content)
    assert source[-1].picture[:, 0, 0].tolist() == [5900, 5901, 5902]


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        (
            {"type": "record", "name": "a", "fields": [{"name": "x", "type": "a"}]},
            "the schema of the file contains itself",
        ),
        ({"type": "record", "fields": []}, "damaged"),
        ({"type": "record", "name": "a", "fields": [{"name": "x"}]}, "damaged"),
        ({"type": "enum", "name": "a", "symbols": ["1"]}, "damaged"),
        ("null", "expected alerts with cutoutScience"),
    ],
)
def test_headers_that_describe_no_alerts(tmp_path: Path, schema: Any, match: str) -> None:
    key, text, mark = b"avro.schema", json.dumps(schema).encode(), bytes(16)
    header = b"\x02" + bytes([2 * len(key)]) + key + encode_long(len(text)) + text + b"\0" + mark
    path = tmp_path / "a.avro"
    path.write_bytes(b"Obj\x01" + header + b"\x02\0" + mark)
    with pytest.raises(ImagesError, match=match):
        open_images(path)


def encode_long(number: int) -> bytes:
    """A positive number in zigzag encoding."""
    number *= 2
    content = b""
    while number > 0x7F:
        content += bytes([number & 0x7F | 0x80])
        number >>= 7
    return content + bytes([number])


def test_alerts_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = make_alert(0)
    broken[NAMES[1]] = None
    source = open_images(write_alerts(tmp_path / "a.avro", [broken, make_alert(1)]))
    with pytest.raises(ImageError, match="cutoutTemplate: expected the bytes of a FITS file"):
        source[0]
    assert source[1].picture.shape == (3, 5, 4)
    with pytest.raises(ImagesError, match="alerts have 3 stamps"):
        open_images(tmp_path / "a.avro", channels=4)
    with pytest.raises(ImagesError, match="the file has no alerts"):
        open_images(write_alerts(tmp_path / "none.avro", []))
    whole = (tmp_path / "a.avro").read_bytes()
    for length in (2, 100, len(whole) // 2, len(whole) - 3):
        (tmp_path / "cut.avro").write_bytes(whole[:length])
        with pytest.raises(ImagesError, match="damaged"):
            open_images(tmp_path / "cut.avro")
    monkeypatch.setattr("apercu.extras.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"pip install 'apercu\[alerts\]'"):
        open_images(tmp_path / "a.avro")


def test_a_block_that_unpacks_to_too_much(tmp_path: Path) -> None:
    alert = make_alert(0)
    alert[NAMES[0]] = {"fileName": "x", "stampData": bytes(80 << 20)}
    path = write_alerts(tmp_path / "a.avro", [alert], "deflate")
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ImagesError, match="too large, expected at most 64 MiB unpacked"):
        open_images(path)
