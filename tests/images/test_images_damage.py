"""Pictures that lack a part are told as damaged, whole ones of the same kind are read."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.errors import ImageError
from apercu.images import read_picture
from apercu.images.formats import tiff

RAMP = (np.arange(64)[:, None] + np.arange(40) + 100).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (160, 200, 3), dtype=np.uint8)
DEFLATE, PACKBITS, JPEG = 8, 32773, 7
SHORT, LONG, RATIONAL = 3, 4, 5
Tag = tuple[int, int, tuple[object, ...]]


def encode_tiff(strips: list[bytes], rows: int, *tags: Tag, order: str = "<") -> bytes:
    """A TIFF of 40 × 64 pixels of one byte, whose tags may be replaced."""
    offsets = [8 + sum(map(len, strips[:number])) for number in range(len(strips))]
    default: list[Tag] = [
        (256, LONG, (40,)),
        (257, LONG, (64,)),
        (258, SHORT, (8,)),
        (259, SHORT, (1,)),
        (262, SHORT, (1,)),
        (273, LONG, tuple(offsets)),
        (277, SHORT, (1,)),
        (278, LONG, (rows,)),
        (279, LONG, tuple(map(len, strips))),
    ]
    merged = {tag[0]: tag for tag in (*default, *tags)}
    body, start = b"".join(strips), 8 + sum(map(len, strips))
    entries, extra = b"", b""
    for number, kind, values in (merged[key] for key in sorted(merged)):
        form = order + {SHORT: "H", LONG: "I", RATIONAL: "II"}[kind]
        raw = b"".join(struct.pack(form, *(v if isinstance(v, tuple) else (v,))) for v in values)
        if len(raw) > 4:
            at = start + 2 + 12 * len(merged) + 4 + len(extra)
            extra, raw = extra + raw, struct.pack(f"{order}I", at)
        entries += struct.pack(f"{order}HHI", number, kind, len(values)) + raw.ljust(4, b"\0")
    directory = struct.pack(f"{order}H", len(merged)) + entries + bytes(4) + extra
    magic = b"II*\0" if order == "<" else b"MM\0*"
    return magic + struct.pack(f"{order}I", start) + body + directory


def read_row(data: bytes) -> torch.Tensor:
    return read_picture(data, channels=None)[:, 0]


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"quality": 50}, {"subsampling": 0}]
)
def test_a_jpeg_that_is_cut_and_closed_again(options: dict[str, object]) -> None:
    stream = io.BytesIO()
    Image.fromarray(NOISE).save(stream, "JPEG", **options)
    whole = stream.getvalue()
    assert read_picture(whole).std() > 0.1
    for fraction in (0.2, 1 / 3, 0.5):
        with pytest.raises(ImageError, match="damaged or cut short"):
            read_picture(whole[: int(len(whole) * fraction)] + b"\xff\xd9")
    if not options.get("progressive"):
        with pytest.raises(ImageError, match="a part of its pixels is missing"):
            read_picture(whole[: int(len(whole) * 0.97)] + b"\xff\xd9")


def test_a_picture_that_ends_in_grey_or_black_is_whole() -> None:
    for value in (127, 128, 0):
        picture = NOISE.copy()
        picture[80:] = value
        for form in ("JPEG", "PNG"):
            stream = io.BytesIO()
            Image.fromarray(picture).save(stream, form)
            assert read_picture(stream.getvalue()).shape == (3, 160, 200)


def encode_png(rows: int, height: int, interlaced: bool = False) -> bytes:
    """A PNG of 40 columns, with fewer rows of pixels than its header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    if interlaced:
        steps = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4))
        passes = [RAMP[y:height:dy, x::dx] for x, y, dx, dy in (*steps, (1, 0, 2, 2), (0, 1, 1, 2))]
        lines = [line for part in passes for line in part][: rows or None]
    else:
        lines = list(RAMP[:rows])
    raw = b"".join(b"\0" + line.tobytes() for line in lines)
    head = struct.pack(">IIBBBBB", 40, height, 8, 0, 0, 0, int(interlaced))
    content = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + content


def test_missing_rows_of_a_png() -> None:
    assert read_row(encode_png(64, 64)).shape == (1, 40)
    for rows in (1, 32, 63):
        with pytest.raises(ImageError, match="a part of its pixels is missing"):
            read_picture(encode_png(rows, 64))
    assert read_row(encode_png(0, 64, interlaced=True)).shape == (1, 40)
    with pytest.raises(ImageError, match="a part of its pixels is missing"):
        read_picture(encode_png(60, 64, interlaced=True))


def test_the_directories_of_a_tiff_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    offsets: list[int] = []
    read_directory = tiff._read_directory

    def count(stream: object, order: str, offset: int, *others: object) -> object:
        offsets.append(offset)
        return read_directory(stream, order, offset, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(tiff, "_read_directory", count)
    pages = [Image.fromarray(RAMP + 10 * number) for number in range(3)]
    stream = io.BytesIO()
    pages[0].save(stream, "TIFF", save_all=True, append_images=pages[1:])
    picture = read_picture(stream.getvalue(), channels=1)
    torch.testing.assert_close(picture[0], torch.from_numpy(RAMP / 255).float())
    assert len(offsets) == len(set(offsets)) == 3


def test_missing_strips_of_a_tiff() -> None:
    halves = [RAMP[:32].tobytes(), RAMP[32:].tobytes()]
    expected = torch.from_numpy(RAMP / 255).float()
    torch.testing.assert_close(read_picture(encode_tiff(halves, 32), channels=1)[0], expected)
    with pytest.raises(ImageError, match="expected 2 strips of pixels, got 1"):
        read_picture(encode_tiff(halves[:1], 32))
    with pytest.raises(ImageError, match="strip 2 of 2 is missing"):
        read_picture(encode_tiff(halves, 32, (273, LONG, (8, 5_000_000))))
    packed = [zlib.compress(half) for half in halves]
    assert read_row(encode_tiff(packed, 32, (259, SHORT, (DEFLATE,)))).shape == (1, 40)
    with pytest.raises(ImageError, match="strip 2 of 2 is missing"):
        read_picture(
            encode_tiff(packed, 32, (259, SHORT, (DEFLATE,)), (279, LONG, (len(packed[0]), 0)))
        )


@pytest.mark.parametrize("compression", [DEFLATE, PACKBITS, JPEG])
def test_strips_that_hold_too_little(compression: int) -> None:
    def pack(pixels: np.ndarray[tuple[int, int], np.dtype[np.uint8]]) -> bytes:
        if compression == DEFLATE:
            return zlib.compress(pixels.tobytes())
        if compression == PACKBITS:
            return b"".join(bytes([39]) + row.tobytes() for row in pixels)
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "JPEG")
        return stream.getvalue()

    tag: Tag = (259, SHORT, (compression,))
    assert read_row(encode_tiff([pack(RAMP)], 64, tag)).shape == (1, 40)
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_picture(encode_tiff([pack(RAMP[:20])], 64, tag))


def test_tiles_of_an_impossible_size() -> None:
    tags: tuple[Tag, ...] = (
        (322, LONG, (1 << 20,)),
        (323, LONG, (1 << 20,)),
        (324, LONG, (8,)),
        (325, LONG, (100,)),
    )
    with pytest.raises(ImageError, match="its tiles are 1048576 × 1048576"):
        read_picture(encode_tiff([bytes(100)], 64, *tags))


WHITE_IS_ZERO: Tag = (262, SHORT, (0,))


@pytest.mark.parametrize(
    ("pixels", "bits", "form", "low"),
    [
        (np.full((64, 40), 0x40, np.uint8), 8, 1, 0x40 / 255),
        (np.full((64, 40), 0x4000, "<u2"), 16, 1, 0x4000 / 65535),
        (np.full((64, 40), 0.25, "<f4"), 32, 3, 0.25),
        (np.full((64, 40), 0.25, "<f8"), 64, 3, 0.25),
        (np.full((64, 40), 0.25, "<f2"), 16, 3, 0.25),
        (np.full((64, 20), 0x44, np.uint8), 4, 1, 4 / 15),
    ],
)
def test_white_is_zero_at_every_depth(
    pixels: np.ndarray[tuple[int, int], np.dtype[np.generic]], bits: int, form: int, low: float
) -> None:
    tags: tuple[Tag, ...] = ((258, SHORT, (bits,)), (339, SHORT, (form,)))
    plain = read_picture(encode_tiff([pixels.tobytes()], 64, *tags), channels=1)
    inverted = read_picture(encode_tiff([pixels.tobytes()], 64, *tags, WHITE_IS_ZERO), channels=1)
    torch.testing.assert_close(plain, torch.full((1, 64, 40), low))
    torch.testing.assert_close(inverted, torch.full((1, 64, 40), 1 - low))


def test_white_is_zero_in_words_of_either_byte_order() -> None:
    for order in ("<", ">"):
        content = np.full((64, 40), 0x4000, f"{order}u2").tobytes()
        data = encode_tiff([content], 64, (258, SHORT, (16,)), WHITE_IS_ZERO, order=order)
        picture = read_picture(data, channels=1)
        torch.testing.assert_close(picture, torch.full((1, 64, 40), 1 - 0x4000 / 65535))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [False, True])
def test_colours_of_words_in_separate_planes(packed: bool, order: str) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (3, 64, 40)).astype(f"{order}u2")
    tags: tuple[Tag, ...] = (
        (258, SHORT, (16,) * 3),
        (262, SHORT, (2,)),
        (277, SHORT, (3,)),
        (284, SHORT, (2,)),
        (259, SHORT, (DEFLATE if packed else 1,)),
    )
    strips = [zlib.compress(plane.tobytes()) if packed else plane.tobytes() for plane in values]
    picture = read_picture(encode_tiff(strips, 64, *tags, order=order), channels=None)
    torch.testing.assert_close(picture, torch.from_numpy(values.astype(np.float32) / 65535))


EXTRA_SAMPLES = 338
ANYTHING, ASSOCIATED, ALPHA = 0, 1, 2


def _encode_bands(
    values: np.ndarray,
    photometric: int,
    extra: int | None,
    *,
    planar: bool,
    order: str,
    packed: bool,
) -> bytes:
    """A TIFF of unsigned integers, `64 × 40 × samples`."""
    samples, bits = values.shape[2], 8 * values.itemsize
    tags: list[Tag] = [
        (258, SHORT, (bits,) * samples),
        (262, SHORT, (photometric,)),
        (277, SHORT, (samples,)),
        (284, SHORT, (2 if planar else 1,)),
        (259, SHORT, (DEFLATE if packed else 1,)),
    ]
    if extra is not None:
        count = samples - (3 if photometric == 2 else 1)
        tags.append((EXTRA_SAMPLES, SHORT, (extra, *[ANYTHING] * (count - 1))))
    ordered = values.astype(f"{order}u{values.itemsize}")
    parts = np.moveaxis(ordered, 2, 0) if planar else ordered[None]
    strips = [zlib.compress(part.tobytes()) if packed else part.tobytes() for part in parts]
    return encode_tiff(strips, 64, *tags, order=order)


BANDS = np.random.default_rng(3).integers(0, 65536, (64, 40, 13)).astype(np.uint16)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_bands_without_a_meaning_are_channels(
    bits: int, planar: bool, order: str, packed: bool
) -> None:
    values = BANDS if bits == 16 else (BANDS >> 8).astype(np.uint8)
    for samples, photometric in ((2, 1), (3, 1), (4, 1), (4, 2), (5, 2), (13, 1), (3, 2)):
        extra = None if (samples, photometric) == (3, 2) else ANYTHING
        part = values[..., :samples]
        data = _encode_bands(part, photometric, extra, planar=planar, order=order, packed=packed)
        expected = torch.from_numpy(np.moveaxis(part / (2**bits - 1), 2, 0)).float()
        torch.testing.assert_close(read_picture(data, channels=samples), expected)
        torch.testing.assert_close(read_picture(data, channels=None), expected)
        if (samples, photometric) in ((2, 1), (4, 2)):  # one more than the colours
            colours = expected[: samples - 1]
            torch.testing.assert_close(read_picture(data, channels=len(colours)), colours)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("photometric", [0, 1, 2])
@pytest.mark.parametrize("extra", [ASSOCIATED, ALPHA])
def test_transparency_of_a_tiff_is_over_white(
    bits: int, planar: bool, photometric: int, extra: int
) -> None:
    full, samples = 2**bits - 1, 4 if photometric == 2 else 2
    values = (BANDS[..., :samples] >> (16 - bits)).astype(np.uint16 if bits == 16 else np.uint8)
    if extra == ASSOCIATED:  # colours are multiplied by the alpha already
        values[..., :-1] = values[..., :-1].astype(np.uint64) * values[..., -1:] // full
    data = _encode_bands(values, photometric, extra, planar=planar, order="<", packed=False)
    colours, alpha = values[..., :-1] / full, values[..., -1:] / full
    if photometric == 0:
        colours = (alpha if extra == ASSOCIATED else 1) - colours
    shown = (colours if extra == ASSOCIATED else colours * alpha) + 1 - alpha
    picture = read_picture(data, channels=None)
    expected = torch.from_numpy(np.moveaxis(shown, 2, 0)).float()
    torch.testing.assert_close(picture, expected, atol=0.012 if bits == 8 else 1e-4, rtol=0)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("samples", [3, 5])
def test_bands_of_floats(samples: int, packed: bool) -> None:
    values = np.random.default_rng(1).random((64, 40, samples))
    content = values.astype("<f8").tobytes()
    tags: tuple[Tag, ...] = (
        (258, SHORT, (64,) * samples),
        (277, SHORT, (samples,)),
        (339, SHORT, (3,) * samples),
        (259, SHORT, (DEFLATE if packed else 1,)),
    )
    strips = [zlib.compress(content) if packed else content]
    picture = read_picture(encode_tiff(strips, 64, *tags), channels=None)
    torch.testing.assert_close(picture, torch.from_numpy(np.moveaxis(values, 2, 0)).float())


@pytest.mark.parametrize("predictor", [2, 3])
def test_predictors_are_undone(predictor: int) -> None:
    values = np.random.default_rng(1).random((64, 40)).astype(">f4")
    tags: tuple[Tag, ...] = (
        (258, SHORT, (32,) * 2),
        (277, SHORT, (2,)),
        (339, SHORT, (3,) * 2),
        (256, LONG, (20,)),
        (317, SHORT, (predictor,)),
        (259, SHORT, (DEFLATE,)),
    )
    if predictor == 2:
        words = values.astype("<f4").view("<u4").reshape(64, 20, 2)
        start = np.zeros((64, 1, 2), "<u4")
        content = np.diff(words, axis=1, prepend=start).astype("<u4").tobytes()
    else:
        planes = values.view(np.uint8).reshape(64, 40, 4).transpose(0, 2, 1).reshape(64, 80, 2)
        content = np.diff(planes, axis=1, prepend=np.zeros((64, 1, 2), np.uint8)).tobytes()
    picture = read_picture(encode_tiff([zlib.compress(content)], 64, *tags), channels=None)
    expected = np.moveaxis(values.reshape(64, 20, 2), 2, 0).astype(np.float32)
    torch.testing.assert_close(picture, torch.from_numpy(expected.copy()))


def test_signed_and_unknown_kinds_of_tiff_are_named() -> None:
    with pytest.raises(ImageError, match="a TIFF of signed bytes"):
        read_picture(encode_tiff([RAMP.tobytes()], 64, (339, SHORT, (2,))))
    content = bytes(64 * 60)
    with pytest.raises(ImageError, match=r"a TIFF file of 1 × 12 bits per pixel"):
        read_picture(encode_tiff([content], 64, (258, SHORT, (12,)), WHITE_IS_ZERO))


def test_pixels_that_are_not_square() -> None:
    fax: tuple[Tag, ...] = ((282, RATIONAL, ((204, 1),)), (283, RATIONAL, ((102, 1),)))
    picture = read_picture(encode_tiff([RAMP.tobytes()], 64, *fax), channels=1)
    assert picture.shape == (1, 128, 40)
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "JPEG", dpi=(100, 200))
    assert read_picture(stream.getvalue()).shape == (3, 64, 80)
    stream = io.BytesIO()
    Image.fromarray(RAMP).save(stream, "PNG", dpi=(72, 72))
    assert read_picture(stream.getvalue()).shape == (3, 64, 40)
