"""Hostile requests: damaged files, damaged forms, JSON of any shape."""

from __future__ import annotations

import base64
import gzip
import io
import json
import random
from collections.abc import Mapping

import numpy as np
from PIL import Image

from apercu.explain.files import build_secondary_capture
from apercu.images.formats.dicom import DicomReference
from trials.load_generator import BOUNDARY, make_request
from trials.pictures import encode

SIDE = 32
FIELDS = ("image", "target", "top", "level", "format", "picture", "instances", "Image", "")
WORDS = (
    "top",
    "0",
    "-1",
    "999999999999",
    "nan",
    "1e999",
    "png",
    "both",
    "gif",
    "true",
    "\0",
    "é" * 99,
)
FORM, JSON = b"multipart/form-data; boundary=" + BOUNDARY, b"application/json"


def make_seeds(seed: int) -> dict[str, bytes]:
    """Return a small file of each kind that is read."""
    pixels = np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    results = {kind: encode(pixels, kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")}
    results["TIFF, packed"] = encode(pixels, "TIFF", compression="tiff_lzw")
    results["npy"] = _encode_npy(pixels)
    results["npy, floats"] = _encode_npy(np.float32(pixels / 255))
    results["FITS"] = _encode_fits(pixels)
    results["FITS, gzip"] = gzip.compress(results["FITS"])
    source = DicomReference("1.2", "1.2.840.10008.5.1.4.1.1.1", "1.2.3", None)
    results["DICOM"] = build_secondary_capture(
        Image.fromarray(pixels), source, "made to be damaged"
    )
    return results


def make_hostile(files: Mapping[str, bytes], draw: random.Random) -> bytes:
    """Return a request whose head is well formed, and whose body most often is not."""
    kind = draw.random()
    picture = damage(files[draw.choice(sorted(files))], draw)
    if kind < 0.6:
        return make_request(_build_form({"image": picture}), FORM)
    if kind < 0.75:
        fields = {draw.choice(FIELDS): _draw_word(draw).encode() for _ in range(draw.randrange(4))}
        body = _build_form({"image": picture, **fields})
        return make_request(damage(body, draw) if draw.random() < 0.7 else body, FORM)
    text = json.dumps(_draw_value(picture, draw, 3)).encode()
    return make_request(damage(text, draw) if draw.random() < 0.3 else text, JSON)


def damage(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with parts changed, cut, doubled, swapped, or declared much larger."""
    changed = bytearray(content)
    for _ in range(draw.choice((1, 1, 2, 4, 16))):
        index = draw.randrange(len(changed) + 1)
        if draw.random() < 0.5:
            index = min(index, draw.randrange(256))  # where the headers are
        match draw.randrange(6):
            case 0:
                changed[index : index + 1] = bytes([draw.randrange(256)])
            case 1:
                changed[index : index + 4] = draw.choice((b"\xff", b"\0", b"\x7f")) * 4
            case 2:
                del changed[index:]
            case 3:
                del changed[index : index + draw.randrange(1, 64)]
            case 4:
                changed[index:index] = changed[index : index + draw.randrange(1, 256)]
            case _:
                changed[index:index] = draw.randbytes(draw.randrange(1, 64))
    return bytes(changed)


def _draw_value(picture: bytes, draw: random.Random, depth: int) -> object:
    """Draw a JSON value, most often an object that looks like a request."""
    match draw.randrange(9 if depth else 6):
        case 0:
            return draw.choice((None, True, False, 0, -1, 10**40, 0.5, float("nan"), float("inf")))
        case 1:
            return _draw_word(draw)
        case 2 | 3:
            return base64.b64encode(picture).decode()
        case 4:
            return {"b64": base64.b64encode(picture).decode()}
        case 5:
            return []
        case 6:
            return [_draw_value(picture, draw, depth - 1) for _ in range(draw.randrange(4))]
        case _:
            fields = {"image": _draw_value(picture, draw, 0)} if draw.random() < 0.7 else {}
            names = draw.sample(FIELDS, draw.randrange(4))
            return fields | {name: _draw_value(picture, draw, depth - 1) for name in names}


def _draw_word(draw: random.Random) -> str:
    letters = (chr(draw.randrange(1, 0xD800)) for _ in range(draw.randrange(12)))
    return draw.choice(WORDS) if draw.random() < 0.7 else "".join(letters)


def _build_form(fields: Mapping[str, bytes]) -> bytes:
    parts = []
    for name, content in fields.items():
        file = b'; filename="a"' if name == "image" else b""
        head = b'Content-Disposition: form-data; name="%b"%b' % (name.encode(), file)
        parts.append(b"--%b\r\n%b\r\n\r\n%b\r\n" % (BOUNDARY, head, content))
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


def _encode_npy(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, pixels)
    return buffer.getvalue()


def _encode_fits(pixels: np.ndarray) -> bytes:
    from astropy.io import fits

    buffer = io.BytesIO()
    fits.PrimaryHDU(np.float32(pixels.transpose(2, 0, 1) / 255)).writeto(buffer)
    return buffer.getvalue()
