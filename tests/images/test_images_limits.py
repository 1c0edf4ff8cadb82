"""Small files that would become large, and files that would take long, are told before the work."""

from __future__ import annotations

import gzip
import io
import struct
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from apercu.errors import ImageError, ImagesError
from apercu.images import limits as unpacking
from apercu.images import open_images, read_picture
from apercu.images import parquet as parquet_module
from apercu.images.resizing import resize_picture


def encode_image(image: Image.Image, form: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def encode_dicom(syntax: UID, pixels: bytes, side: int = 64, samples: int = 1) -> bytes:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = syntax, "1.2.3"
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file = FileDataset("a.dcm", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    file.Rows = file.Columns = side
    file.SamplesPerPixel = samples
    file.PhotometricInterpretation = "MONOCHROME2" if samples == 1 else "RGB"
    if samples > 1:
        file.PlanarConfiguration = 0
    file.BitsAllocated = file.BitsStored = 8
    file.HighBit, file.PixelRepresentation = 7, 0
    if syntax.is_compressed and syntax != DeflatedExplicitVRLittleEndian:
        file.PixelData = encapsulate([pixels])
        file["PixelData"].VR = "OB"
    else:
        file.PixelData = pixels
    stream = io.BytesIO()
    pydicom.dcmwrite(stream, file, enforce_file_format=True)
    return stream.getvalue()


def peak_of_refusal(data: bytes, message: str) -> int:
    """Bytes at most in use while a file is refused within a second."""
    tracemalloc.start()
    begun = time.monotonic()
    with pytest.raises(ImageError, match=message) as caught:
        read_picture(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert time.monotonic() - begun < 5 and "\n" not in str(caught.value)
    return peak


def test_a_deflated_dicom_is_bounded() -> None:
    ramp = np.arange(64 * 64, dtype=np.uint8).tobytes()
    small = encode_dicom(DeflatedExplicitVRLittleEndian, ramp)
    plain = encode_dicom(ExplicitVRLittleEndian, ramp)
    assert torch.equal(read_picture(small), read_picture(plain))
    large = encode_dicom(DeflatedExplicitVRLittleEndian, ramp + bytes(200 << 20))
    assert len(large) < 1 << 20
    assert peak_of_refusal(large, "expected at most 64 MiB unpacked") < 20 << 20
    with pytest.raises(ImageError, match=r"damaged or cut short \(deflate\)"):
        read_picture(small[:-40])


@pytest.mark.parametrize("form", ["JPEG", "JPEG2000"])
def test_a_stream_of_another_size_than_its_header_is_not_decoded(form: str) -> None:
    syntax = JPEGBaseline8Bit if form == "JPEG" else JPEG2000Lossless
    options: dict[str, object] = {} if form == "JPEG" else {"no_jp2": True, "irreversible": False}
    picture = encode_image(Image.new("L", (2000, 1500), 90), form, **options)
    message = r"header says 64 × 64, its compressed pixels 2000 × 1500"
    assert peak_of_refusal(encode_dicom(syntax, picture), message) < 4 << 20
    swapped = encode_image(Image.new("L", (128, 32), 90), form, **options)
    with pytest.raises(ImageError, match="its compressed pixels 128 × 32"):
        read_picture(encode_dicom(syntax, swapped))
    coloured = encode_image(Image.new("RGB", (64, 64)), form, **options)
    with pytest.raises(ImageError, match="says 1 samples per pixel, its compressed pixels have 3"):
        read_picture(encode_dicom(syntax, coloured))


def test_runs_that_do_not_fit_are_not_unpacked() -> None:
    header = struct.pack("<16I", 1, 64, *[0] * 14)
    bomb = header + b"\x81\x00" * 100_000  # each becomes 128 bytes
    with pytest.raises(ImageError, match="its runs do not fit the size of its header"):
        read_picture(encode_dicom(RLELossless, bomb))


def count_up_scans(jpeg: bytes, scans: int) -> bytes:
    """Repeat the last scan of a progressive JPEG, which is valid but useless work."""
    last = jpeg.rindex(b"\xff\xda")
    return jpeg[:last] + jpeg[last:-2] * scans + b"\xff\xd9"


@pytest.mark.parametrize("container", ["JPEG", "DICOM"])
def test_scans_of_a_jpeg_are_counted_before_it_is_decoded(container: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    jpeg = encode_image(Image.fromarray(noise), "JPEG", progressive=True)
    many = count_up_scans(jpeg, 400)
    if container == "DICOM":
        jpeg, many = (encode_dicom(JPEGBaseline8Bit, each) for each in (jpeg, many))
    assert read_picture(jpeg).std() > 0.1
    with pytest.raises(ImageError, match=r"JPEG of 4\d\d scans, expected at most 100 at 64 × 64"):
        read_picture(many)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_few_bytes_do_not_become_a_large_picture(form: str) -> None:
    options = {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}}.get(form, {})
    data = encode_image(Image.new("1" if form != "WEBP" else "RGB", (5000, 4001)), form, **options)
    if form == "TIFF":
        message = r"at most \d+(\.\d+)? megapixels in \d+ bytes|too large"
    else:
        message = r"at most \d+(\.\d+)? megapixels in \d+ bytes"
    if len(data) * 1000 >= 5000 * 4001:
        pytest.skip("this encoder does not make it small")
    with pytest.raises(ImageError, match=message):
        read_picture(data)


def test_texts_of_a_png_are_bounded_and_not_called_damage() -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    plain = encode_image(Image.new("L", (8, 8)), "PNG")
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(32 << 20)))
    with pytest.raises(ImageError, match="its texts or its colour profile are too large"):
        read_picture(plain[:33] + text + plain[33:])


@pytest.mark.parametrize("shape", [(1, 300_000, 2), (1, 2, 300_000), (3, 2000, 30), (3, 37, 53)])
@pytest.mark.parametrize("size", [(64, 64), (224, 224)])
def test_resizing_gives_the_same_pixels_in_bounded_memory(
    shape: tuple[int, int, int], size: tuple[int, int]
) -> None:
    picture = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    resized = resize_picture(picture, size)
    rows = F.interpolate(picture[None], (size[0], shape[2]), mode="bilinear", antialias=True)
    expected = F.interpolate(rows, size, mode="bilinear", antialias=True)[0]
    torch.testing.assert_close(resized, expected, atol=1e-5, rtol=1e-5)
    if max(shape) < 1000:
        direct = F.interpolate(picture[None], size, mode="bilinear", antialias=True)[0]
        assert torch.equal(resized, direct)


def test_a_resized_picture_that_would_be_huge_is_refused() -> None:
    with pytest.raises(ImageError, match="would become 224 × 33600000"):
        resize_picture(torch.zeros(1, 300_000, 2), (33_600_000, 224))


def test_a_tall_picture_never_has_a_larger_one_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = F.interpolate

    def spy(values: torch.Tensor, size: tuple[int, int], **options: object) -> torch.Tensor:
        sizes.append(values.shape[2] * size[1])  # rows that are made across first
        return original(values, size, **options)

    monkeypatch.setattr("apercu.images.resizing.F.interpolate", spy)
    resize_picture(torch.zeros(1, 300_000, 2), (224, 224))
    assert max(sizes) <= 600_000


def test_gzip_in_a_fits_tile_is_bounded() -> None:
    fits = pytest.importorskip("astropy.io.fits")
    image = fits.CompImageHDU(
        np.arange(4096, dtype=np.int32).reshape(64, 64),
        compression_type="GZIP_1",
        tile_shape=(64, 64),
    )
    stream = io.BytesIO()
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(stream)
    data = stream.getvalue()
    assert read_picture(data, channels=1).max() == 4095
    start = data.index(b"\x1f\x8b")
    with fits.open(io.BytesIO(data), disable_image_compression=True) as file:
        table = file[1]
        bomb = np.frombuffer(gzip.compress(bytes(64 << 20)), np.uint8)
        columns = fits.ColDefs(
            [fits.Column("COMPRESSED_DATA", "1PB()", array=np.array([bomb], dtype=object))]
        )
        hostile = fits.BinTableHDU.from_columns(columns)
        for card in table.header.cards:
            if card.keyword.startswith("Z"):
                hostile.header.append(card)
        stream = io.BytesIO()
        fits.HDUList([fits.PrimaryHDU(), hostile]).writeto(stream)
    assert start and len(stream.getvalue()) < 1 << 20
    assert (
        peak_of_refusal(stream.getvalue(), "too large, expected at most .* MiB unpacked") < 8 << 20
    )


def test_one_picture_in_many_rows_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = encode_image(Image.fromarray(noise), "PNG")
    path = tmp_path / "same.parquet"
    parquet.write_table(pa.table({"image": pa.array([picture] * 5000)}), path)
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(parquet_module, "MAX_GROUP_BYTES", 16 << 20)
    with pytest.raises(ImagesError, match="row group 0 is too large"):
        open_images(path)[0]


def test_limits_follow_the_packed_bytes() -> None:
    assert unpacking.unpacked_limit(10) == 64 << 20
    assert unpacking.unpacked_limit(1 << 40) == 1 << 30


def test_a_stack_of_few_bytes_is_bounded(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((20_000, 64, 64), np.uint8))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 20
    with pytest.raises(ImagesError, match=r"x\.npy is too large, expected at most 64 MiB unpacked"):
        open_images(tmp_path / "a.npz", channels=1)
