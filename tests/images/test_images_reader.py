"""read_picture against values written by hand, in every format and mode."""

from __future__ import annotations

import io
import struct
import tarfile
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from apercu.errors import ImageError, MissingExtraError
from apercu.images import read_picture
from apercu.images.formats.pillow import decode_image
from apercu.images.reader import convert_picture, read_mask, read_stored

GREY = np.array([[0, 51, 102], [153, 204, 255]], dtype=np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=-1)


def encode(array: Any, mode: str | None = None, form: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image = array if isinstance(array, Image.Image) else Image.fromarray(array)
    (image.convert(mode) if mode else image).save(stream, form, **options)
    return stream.getvalue()


def encode_npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def pack(form: str) -> bytes:
    """Return an archive that holds one picture."""
    stream, picture = io.BytesIO(), encode(GREY)
    if form == "zip":
        with zipfile.ZipFile(stream, "w") as packed:
            packed.writestr("a.png", picture)
        return stream.getvalue()
    with tarfile.open(fileobj=stream, mode="w:gz" if form == "gztar" else "w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(picture)
        archive.addfile(member, io.BytesIO(picture))
    return stream.getvalue()


def assert_close(picture: torch.Tensor, expected: Any, tolerance: float = 1e-6) -> None:
    torch.testing.assert_close(
        picture, torch.as_tensor(np.asarray(expected), dtype=torch.float32), rtol=0, atol=tolerance
    )


@pytest.mark.parametrize("form", ["PNG", "TIFF", "BMP", "GIF"])
def test_grey_stays_grey_or_becomes_three(form: str) -> None:
    data = encode(GREY, form=form)
    assert_close(read_picture(data, channels=1), GREY[None] / 255)
    assert_close(read_picture(data, channels=3), np.stack([GREY] * 3) / 255)


@pytest.mark.parametrize(
    ("form", "options"),
    [("PNG", {}), ("TIFF", {"compression": "tiff_lzw"}), ("BMP", {}), ("WEBP", {"lossless": True})],
)
def test_colour_is_channels_first(form: str, options: dict[str, Any]) -> None:
    assert_close(
        read_picture(encode(COLOUR, form=form, **options)), COLOUR.transpose(2, 0, 1) / 255
    )


def test_jpeg_of_one_tone() -> None:
    data = encode(np.full((16, 16, 3), (200, 100, 50), np.uint8), form="JPEG", quality=95)
    assert_close(
        read_picture(data),
        np.full((16, 16), 1) * np.array([200, 100, 50])[:, None, None] / 255,
        0.01,
    )


def test_luma_of_primaries() -> None:
    primaries = np.eye(3, dtype=np.uint8)[:2] * 255
    data = encode(primaries[None].repeat(2, axis=0))
    assert_close(read_picture(data, channels=1), [[[0.299, 0.587], [0.299, 0.587]]])


@pytest.mark.parametrize("factor", [255.0, -1.0, float("nan")])
def test_colours_out_of_range_do_not_become_grey(factor: float) -> None:
    colours = factor * np.random.default_rng(0).random((8, 8, 3), np.float32)
    for picture in (colours, torch.from_numpy(colours).permute(2, 0, 1)):
        with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\], which become grey"):
            convert_picture(picture, 1)
    white = convert_picture(np.ones((8, 8, 3), np.float32), 1)
    assert_close(white, np.ones((1, 8, 8)), 1e-6)


def test_one_bit() -> None:
    bits = Image.fromarray(GREY).point(lambda value: 255 * (value > 120)).convert("1")
    assert_close(read_picture(encode(bits), channels=None), [[[0, 0, 0], [1, 1, 1]]])


def test_palette_gives_its_colours() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 1, 0])
    assert_close(
        read_picture(encode(image)), [[[1, 0], [0, 1]], [[0, 0], [0, 0]], [[0, 1], [1, 0]]]
    )


def test_palette_with_transparency_is_composited_over_white() -> None:
    image = Image.new("P", (2, 2))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1, 1, 0])
    picture = read_picture(encode(image, transparency=bytes([0, 255])))
    assert_close(picture, [[[1, 0], [0, 1]], [[1, 0], [0, 1]], [[1, 1], [1, 1]]])


def test_alpha_is_composited_over_white() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 51))
    expected = np.zeros((3, 2, 2))
    expected[:, 0, 0] = 1
    expected[:, 0, 1] = (1, 0.8, 0.8)
    assert_close(read_picture(encode(image)), expected)
    grey = Image.merge("LA", [Image.new("L", (2, 2), 0), Image.new("L", (2, 2), 51)])
    assert_close(read_picture(encode(grey), channels=None), np.full((1, 2, 2), 0.8))


def test_cmyk_becomes_colour() -> None:
    image = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    assert_close(read_picture(encode(image, form="TIFF"), channels=None)[:, 0, 0], [1, 0, 0])


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits(form: str) -> None:
    values = np.array([[0, 65535], [256, 32768]], dtype=np.uint16)
    assert_close(read_picture(encode(values, form=form), channels=1), values[None] / 65535)


def _write_png(values: np.ndarray, depth: int, colour: int, transparency: bytes = b"") -> bytes:
    """Write a PNG of unsigned integers of a depth, `height × width × samples`."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content).to_bytes(4, "big")
        return len(content).to_bytes(4, "big") + kind + content + checksum

    height, width = values.shape[:2]
    if depth < 8:
        bits = (values[..., None] >> np.arange(depth)[::-1] & 1).reshape(height, -1)
        rows = [np.packbits(row.astype(np.uint8)).tobytes() for row in bits]
    else:
        rows = [row.astype(f">u{depth // 8}").tobytes() for row in values]
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    content = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", content), chunk(b"IEND", b"")]
    if transparency:
        parts.insert(1, chunk(b"tRNS", transparency))
    return b"".join([b"\x89PNG\r\n\x1a\n", *parts])


def _over_white(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.moveaxis(values * alpha + 1 - alpha, 2, 0)


DEEP = np.random.default_rng(5).integers(0, 65536, (6, 9, 4), dtype=np.uint16)


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_colours_of_16_bits_keep_all_of_them(colour: int, samples: int) -> None:
    values = DEEP[..., :samples] / 65535
    alpha = values[..., -1:] if samples in (2, 4) else np.ones((6, 9, 1))
    base = values[..., :-1] if samples in (2, 4) else values
    picture = read_picture(_write_png(DEEP[..., :samples], 16, colour), channels=None)
    np.testing.assert_allclose(picture, _over_white(base, alpha), atol=1e-6)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("clear", [0, 1])
def test_a_transparent_grey_is_white_at_every_depth(depth: int, clear: int) -> None:
    values = np.arange(54).reshape(6, 9, 1) % 2 ** min(depth, 5)
    data = _write_png(values, depth, 0, struct.pack(">H", clear))
    expected = np.where(values == clear, 1, values / (2**depth - 1))
    np.testing.assert_allclose(read_picture(data, channels=1), expected[..., 0][None], atol=1e-6)


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    values = DEEP[..., :3].copy()
    values[0, 1] = values[0, 0] ^ 1  # differs in the lower byte alone
    data = _write_png(values, 16, 2, struct.pack(">HHH", *values[0, 0].tolist()))
    picture = read_picture(data)
    assert picture[:, 0, 0].tolist() == [1, 1, 1]
    np.testing.assert_allclose(picture[:, 0, 1], values[0, 1] / 65535, atol=1e-6)


def test_integers_of_32_bits() -> None:
    values = np.array([[0, 65535], [256, 32768]], dtype=np.int32)
    assert_close(read_picture(encode(values, form="TIFF"), channels=1), values[None] / 65535)
    with pytest.raises(ImageError, match=r"integers of 16 bits, 0 to 65535, got 0 to 131070"):
        read_picture(encode(values * 2, form="TIFF"))


@pytest.mark.parametrize("opened", [False, True], ids=["file", "Pillow image"])
def test_unsigned_integers_of_32_bits_are_no_negative_ones(opened: bool) -> None:
    values = np.full((32, 32), 2**32 - 1, dtype=np.uint32)
    data = values.tobytes()
    tags = {256: 32, 257: 32, 258: 32, 259: 1, 262: 1, 273: 8, 277: 1, 278: 32, 279: len(data)}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<4sI", b"II*\0", 8 + len(data)) + data
    file = start + struct.pack("<H", len(tags)) + directory + bytes(4)
    expected = "integers of 16 bits, 0 to 65535, got 4294967295 to 4294967295; scale them"
    with pytest.raises(ImageError, match=expected):
        if opened:
            decode_image(Image.open(io.BytesIO(file)), "image")
        else:
            read_picture(file)


def test_float_tiff() -> None:
    values = np.array([[0, 0.25], [0.5, 1]], dtype=np.float32)
    assert_close(read_picture(encode(values, form="TIFF"), channels=1), values[None])
    with pytest.raises(ImageError, match=r"expected pixels in \[0, 1\], got \[0, 255\]"):
        read_picture(encode(values * 255, form="TIFF"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation(form: str, orientation: int) -> None:
    corner = np.zeros((16, 32, 3), np.uint8)
    corner[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(corner, form=form, exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        upright = np.asarray(ImageOps.exif_transpose(image))
    stored = read_stored(data)
    assert_close(stored.picture, upright.transpose(2, 0, 1) / 255, 0.01)
    assert (stored.orientation, stored.size) == (orientation, (16, 32))


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (GREY, GREY[None] / 255),
        (GREY > 100, (GREY > 100)[None]),
        (GREY.astype(">u2") * 257, GREY[None] / 255),
        (GREY / 255, GREY[None] / 255),
        (np.asfortranarray(GREY / 255), GREY[None] / 255),
        ((GREY / 255).astype(np.float16), GREY[None] / 255),
        (np.arange(60).reshape(5, 3, 4)[:2] / 60, np.arange(60).reshape(5, 3, 4)[:2] / 60),
        (np.arange(60).reshape(3, 4, 5) / 60, np.arange(60).reshape(3, 4, 5) / 60),
        (np.arange(45).reshape(3, 5, 3) / 45, np.arange(45).reshape(3, 5, 3) / 45),
        (
            np.arange(60).reshape(5, 4, 3) / 60,
            np.arange(60).reshape(5, 4, 3).transpose(2, 0, 1) / 60,
        ),
    ],
)
def test_arrays(array: np.ndarray, expected: np.ndarray) -> None:
    assert_close(
        read_picture(encode_npy(array), channels=None),
        expected,
        1e-3 if array.itemsize == 2 else 1e-6,
    )


def test_arrays_of_twelve_channels_from_a_file(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).random((12, 20, 30))
    np.save(tmp_path / "cube.npy", cube)
    assert_close(read_picture(tmp_path / "cube.npy", channels=12), cube)
    with pytest.raises(ImageError, match=r"cube.npy: expected 3 channels, got 12"):
        read_picture(tmp_path / "cube.npy")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", r"image: not an image, as it is empty \(0 bytes\); copy it again"),
        (b"hello, this is text", "not an image, expected JPEG, PNG"),
        (pack("zip"), "not an image, but an archive; unpack it, and name"),
        (pack("tar"), "not an image, but an archive; unpack it"),
        (pack("gztar"), "not an image, but an archive; unpack it"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(99), "not an image, but an archive; unpack it"),
        (encode_npy(np.full((4, 4), np.nan)), "expected finite pixels, got 16"),
        (encode_npy(np.array([[0, np.inf], [0, 1]])), "expected finite pixels, got 1 "),
        (encode_npy(np.array([[0, 1e300], [0, 1]])), "expected finite pixels, got 1 "),
        (encode_npy(np.full((4, 4), 2.0)), r"\[0, 1\], got \[2, 2\]"),
        (encode_npy(np.full((4, 4), 2)), "dtype <i8"),
        (encode_npy(np.zeros((4, 4), complex)), "dtype <c16"),
        (encode_npy(np.zeros(4)), r"got shape \(4,\)"),
        (encode_npy(np.zeros((2, 3, 4, 5))), r"got shape \(2, 3, 4, 5\)"),
        (encode_npy(np.zeros((4, 0, 4))), r"got shape \(4, 0, 4\)"),
        (encode_npy(np.zeros((4, 4)))[:-1], "cut short, expected 128 bytes of pixels, got 127"),
        (encode_npy(np.array([{}, {}])), "dtype|not a .npy array"),
        (encode_npy(np.zeros((1, 9)))[:40], "damaged, or not a .npy array"),
        (encode(GREY)[:-30], "damaged or cut short"),
        (encode(np.zeros((64, 64, 3), np.uint8), form="JPEG")[:-200], "damaged or cut short"),
        (encode(COLOUR, form="BMP")[:-4], "damaged or cut short"),
        (encode(GREY[:1, :1]), r"at least 2 × 2 pixels, got 1 × 1"),
        (encode(GREY[:1]), r"at least 2 × 2 pixels, got 3 × 1 \(width × height\)"),
        (encode_npy(np.zeros((1, 1))), "at least 2 × 2"),
    ],
)
def test_bad_bytes(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_picture(data)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.fits", "a.fits.gz", "a.dcm", "a.npy", "a"])
def test_an_empty_file_is_called_empty(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    for read in (read_picture, read_mask):
        with pytest.raises(ImageError, match=f"{name}: not an image, as it is empty"):
            read(tmp_path / name)


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(60_000, 60_000), (10_001, 10_000), (9_999, 10_002)])
def test_too_large_sizes_are_refused_before_decoding(width: int, height: int) -> None:
    with pytest.raises(ImageError, match="too large, expected at most 100 megapixels"):
        read_picture(png_header(width, height))


def test_too_large_arrays_are_refused() -> None:
    header = encode_npy(np.zeros((2, 2))).replace(b"(2, 2), }       ", b"(60000, 60000), }")
    with pytest.raises(ImageError, match=r"got 60000 × 60000"):
        read_picture(header)


def test_the_largest_size_gives_no_warning() -> None:
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_picture(png_header(10_000, 10_000) + bytes(100_000))  # Pillow alone would warn


def test_few_bytes_do_not_claim_a_large_picture() -> None:
    with pytest.raises(ImageError, match=r"at most 16 megapixels in \d+ bytes, got 10000 × 10000"):
        read_picture(png_header(10_000, 10_000))


def test_warning_filters_are_restored() -> None:
    before = list(warnings.filters)
    read_picture(encode(GREY))
    with pytest.raises(ImageError):
        read_picture(b"no")
    assert list(warnings.filters) == before


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"gone.png: cannot be read \(No such file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(ImageError, match="cannot be read"):
        read_picture(tmp_path)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "torn.jpg"
    path.write_bytes(encode(COLOUR, form="JPEG")[:100])
    with pytest.raises(ImageError, match=r"torn\.jpg: "):
        read_picture(path)


def test_heic_needs_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    heic = b"\0\0\0\x1cftypheic" + bytes(40)
    with monkeypatch.context() as patch:
        patch.setattr("apercu.extras.find_spec", lambda name: None)
        message = r"pillow_heif is not installed; pip install 'apercu\[heic\]'"
        with pytest.raises(MissingExtraError, match=message):
            read_picture(heic)
    pillow_heif = pytest.importorskip("pillow_heif")
    pillow_heif.register_heif_opener()
    data = encode(Image.new("RGB", (20, 10), (51, 51, 51)), form="HEIF")
    torch.testing.assert_close(read_picture(data), torch.full((3, 10, 20), 0.2), atol=0.02, rtol=0)
    with pytest.raises(ImageError):
        read_picture(heic)
