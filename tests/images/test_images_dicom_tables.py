"""Tables, windows, padding, overlays and missing elements of DICOM files: the values they give."""

from __future__ import annotations

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEG2000Lossless, JPEGExtended12Bit

from apercu.errors import ApercuError, ImageError
from apercu.images import open_images, read_picture

STEPS = np.linspace(0, 1, 16)
VALUES = (np.arange(16) * 256).astype(np.uint16)  # 12 bits
REAL = Path(pydicom.__file__).parent / "data" / "test_files"


def make_file(
    row: NDArray[Any], syntax: UID = ExplicitVRLittleEndian, **elements: object
) -> FileDataset:
    """An image of 16 × 16 pixels, each row the same; None leaves an element out."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = syntax, "1.2.3"
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    file = FileDataset("a.dcm", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID, file.SOPInstanceUID = meta.MediaStorageSOPClassUID, "1.2.3"
    bits = 8 * row.dtype.itemsize
    default = {
        **{"Rows": 16, "Columns": 16, "SamplesPerPixel": 1},
        **{"PhotometricInterpretation": "MONOCHROME2", "BitsAllocated": bits},
        **{"BitsStored": min(bits, 12), "HighBit": min(bits, 12) - 1, "PixelRepresentation": 0},
        "PixelData": np.tile(row, (16, 1)).tobytes(),
    }
    for keyword, value in {**default, **elements}.items():
        if value is not None:
            setattr(file, keyword, value)
    return file


def encode(file: FileDataset) -> bytes:
    stream = BytesIO()
    file.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def read_row(row: NDArray[Any] = VALUES, *, channels: int = 1, **elements: Any) -> Any:
    return read_picture(encode(make_file(row, **elements)), channels=channels)[0, 0].numpy()


def make_table(descriptor: list[int], data: Any, vr: str = "US") -> Sequence:
    item = Dataset()
    item.add_new("LUTDescriptor", "US", descriptor)
    item.add_new("LUTData", vr, data)
    return Sequence([item])


TABLE_12 = [(value >> 4) for value in range(4096)]  # 8 bits of output


@pytest.mark.parametrize(
    ("descriptor", "data", "vr"),
    [
        ([4096, 0, 8], TABLE_12, "US"),
        ([4096, 0, 8], bytes(TABLE_12), "OW"),
        ([4096, 0, 8], struct.pack("<4096H", *TABLE_12), "OW"),
        ([4096, 0, 16], [value * 257 for value in TABLE_12], "US"),
        ([4096, 0, 16], list(range(4096)), "US"),  # 12 bits in a table that says 16
        ([4096, 0, 16], [value // 4 for value in range(4096)], "US"),  # 10 bits
        ([4096, 0, 12], list(range(4096)), "US"),
        ([3841, 0, 12], [value * 4095 // 3840 for value in range(3841)], "US"),  # then the last
    ],
)
def test_voi_tables_reach_white(descriptor: list[int], data: Any, vr: str) -> None:
    row = VALUES.copy()
    row[15] = 4095
    actual = read_row(row, VOILUTSequence=make_table(descriptor, data, vr))
    expected = np.append(VALUES[:15] / 4095, 1.0)
    np.testing.assert_allclose(actual, expected, atol=0.005 if descriptor[0] == 4096 else 0.07)
    assert actual[15] == 1


def test_a_modality_table_of_12_bits() -> None:
    table = make_table([4096, 0, 12], list(range(4095, -1, -1)))
    np.testing.assert_allclose(read_row(ModalityLUTSequence=table), STEPS[::-1], atol=1e-6)


def test_tables_that_are_too_short_are_told() -> None:
    with pytest.raises(ImageError, match="LUTData has 10 entries, its descriptor says 4096"):
        read_row(VOILUTSequence=make_table([4096, 0, 8], list(range(10))))


@pytest.mark.parametrize(
    ("centre", "width", "function", "expected"),
    [
        (0.2, 0.4, None, np.arange(16) * 0.0273 / 0.4),
        (0.2, 0.4, "LINEAR_EXACT", np.arange(16) * 0.0273 / 0.4),
        (0.2, 0.4, "SIGMOID", 1 / (1 + np.exp(-4 * (np.arange(16) * 0.0273 - 0.2) / 0.4))),
        (0.2, 1.0, None, np.arange(16) * 0.0273 + 0.3),
    ],
)
def test_windows_below_one(
    centre: float, width: float, function: str | None, expected: Any
) -> None:
    row = (np.arange(16) * 273).astype(np.uint16)
    actual = read_row(
        row,
        BitsStored=16,
        HighBit=15,
        RescaleSlope="0.0001",
        WindowCenter=centre,
        WindowWidth=width,
        VOILUTFunction=function,
    )
    np.testing.assert_allclose(actual, np.clip(expected, 0, 1), atol=2e-4)


def test_a_window_of_one_over_whole_numbers_is_a_threshold() -> None:
    actual = read_row(WindowCenter=1024, WindowWidth=1)
    assert actual.tolist() == [0.0] * 4 + [1.0] * 12
    with pytest.raises(ImageError, match="expected a VOILUTFunction of LINEAR, LINEAR_EXACT"):
        read_row(WindowCenter=1024, WindowWidth=9, VOILUTFunction="GAMMA")


def test_slope_and_intercept_alone() -> None:
    window = {"WindowCenter": 3840, "WindowWidth": 7680, "VOILUTFunction": "LINEAR_EXACT"}
    np.testing.assert_allclose(read_row(RescaleSlope=2, **window), STEPS, atol=1e-6)
    actual = read_row(RescaleIntercept=3840, **window)
    np.testing.assert_allclose(actual, 0.5 + STEPS / 2, atol=1e-6)


def palette(entries: NDArray[Any], bits: int, vr: str = "OW") -> dict[str, object]:
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        elements[f"{colour}PaletteColorLookupTableData"] = entries.tobytes()
    return elements


@pytest.mark.parametrize(
    ("entries", "bits"),
    [
        (np.arange(256, dtype=np.uint8), 8),
        (np.arange(256, dtype="<u2"), 8),
        (np.arange(256, dtype="<u2") << 8, 8),
        (np.arange(256, dtype="<u2"), 16),
        (np.arange(256, dtype="<u2") * 257, 16),
    ],
)
def test_palettes_of_bytes_and_words(entries: NDArray[Any], bits: int) -> None:
    row = (np.arange(16) * 16).astype(np.uint8)
    actual = read_row(row, channels=3, **palette(entries, bits))
    np.testing.assert_allclose(actual, row / 255, atol=1e-6)


def test_palettes_in_segments_match_pydicom() -> None:
    words = [0, 2, 0, 100, 1, 126, 60000, 0, 2, 7, 8, 2, 1, 4 * 2, 0]
    data = struct.pack(f"<{len(words)}H", *words)
    elements: dict[str, object] = {"PhotometricInterpretation": "PALETTE COLOR"}
    for colour in ("Red", "Green", "Blue"):
        elements[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        elements[f"Segmented{colour}PaletteColorLookupTableData"] = data
    row = (np.arange(16) * 16).astype(np.uint8)
    expected: list[int] = [0, 100]
    expected += [*np.rint(np.linspace(100, 60000, 127)[1:]).astype(int).tolist(), 7, 8]
    expected += np.rint(np.linspace(8, 60000, 127)[1:]).astype(int).tolist()
    actual = read_row(row, channels=3, **elements)
    np.testing.assert_allclose(actual, np.array(expected)[row] / 65535, atol=1e-4)
    elements["SegmentedRedPaletteColorLookupTableData"] = struct.pack("<6H", 1, 9, 9, 1, 9, 9)
    with pytest.raises(ImageError, match="the segments of its palette do not fit"):
        read_row(row, channels=3, **elements)


@pytest.mark.parametrize("vr", ["US", "SS"])
@pytest.mark.parametrize("stored", [12, 16])
def test_padding_in_either_sign(vr: str, stored: int) -> None:
    row = (np.arange(16) * 100 - 700).astype(np.int16)
    row[0] = -2000
    file = make_file(row, PixelRepresentation=1, BitsStored=stored, HighBit=stored - 1)
    file.add_new("PixelPaddingValue", vr, 63536 if vr == "US" else -2000)
    actual = read_picture(encode(file), channels=1)[0, 0].numpy()
    np.testing.assert_allclose(actual, np.append(0, np.linspace(0, 1, 15)), atol=1e-6)


def test_overlay_bits_are_no_grey() -> None:
    with_overlay = VALUES | 0x8000
    np.testing.assert_allclose(read_row(with_overlay), STEPS, atol=1e-6)
    signed = ((VALUES.astype(np.int16) - 2048) & 0x0FFF).astype(np.uint16)
    actual = read_row(signed | 0x4000, PixelRepresentation=1)
    np.testing.assert_allclose(actual, STEPS, atol=1e-6)
    high = read_row((VALUES << 4).astype(np.uint16) | 3, HighBit=15)
    np.testing.assert_allclose(high, STEPS, atol=1e-6)


def test_overlay_bits_in_jpeg_2000() -> None:
    from PIL import Image

    stream = BytesIO()
    picture = Image.fromarray(np.tile(VALUES | 0x8000, (16, 1)).astype(np.uint16))
    picture.save(stream, "JPEG2000", no_jp2=True, irreversible=False)
    file = make_file(VALUES, JPEG2000Lossless, PixelData=encapsulate([stream.getvalue()]))
    actual = read_picture(encode(file), channels=1)[0, 0].numpy()
    np.testing.assert_allclose(actual, STEPS, atol=1e-6)
    for end in (b"", b"\xff\xd9"):
        cut = stream.getvalue()[:-20] + end
        file.PixelData = encapsulate([cut])
        with pytest.raises(ImageError, match="the end of its compressed pixels is missing"):
            read_picture(encode(file))


@pytest.mark.parametrize(
    ("kind", "shape", "inverted"),
    [
        ("MONOCHROME2", None, False),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME1", None, True),
        ("MONOCHROME1", "INVERSE", True),
    ],
)
def test_presentations(kind: str, shape: str | None, inverted: bool) -> None:
    actual = read_row(PhotometricInterpretation=kind, PresentationLUTShape=shape)
    np.testing.assert_allclose(actual, STEPS[::-1] if inverted else STEPS, atol=1e-6)


@pytest.mark.parametrize(
    "keyword", ["SamplesPerPixel", "PixelRepresentation", "BitsStored", "HighBit", "BitsAllocated"]
)
def test_missing_elements_have_their_defaults(keyword: str) -> None:
    elements: dict[str, object] = {keyword: None}
    if keyword == "BitsStored":
        elements["HighBit"] = None
    np.testing.assert_allclose(read_row(**elements), STEPS, atol=1e-6)


def test_colours_without_planar_configuration() -> None:
    row = np.repeat((np.arange(16) * 17).astype(np.uint8), 3)
    elements = {"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB", "BitsStored": 8}
    actual = read_row(row, channels=3, **elements, HighBit=7)
    np.testing.assert_allclose(actual, STEPS, atol=1e-6)


def test_missing_elements_without_a_default_are_named() -> None:
    with pytest.raises(ImageError, match="lacks PhotometricInterpretation, expected one of"):
        read_row(PhotometricInterpretation=None)
    with pytest.raises(ImageError, match="lacks Rows"):
        read_row(Rows=None)
    with pytest.raises(ImageError, match="expected 512 bytes of pixels, got 100"):
        read_row(PixelData=bytes(100))
    with pytest.raises(ImageError, match="HighBit is 20; expected 11 to 15"):
        read_row(HighBit=20)


def test_codecs_that_are_missing_are_named() -> None:
    pytest.importorskip("PIL")
    stream = encapsulate([b"\xff\xd8\xff\xc1\0\x0b\x0c\0\x10\0\x10\1\0\x11\0\xff\xd9"])
    film = make_file(VALUES, JPEGExtended12Bit, PixelData=stream)
    with pytest.raises(ImageError, match=r"12 bits per sample, which needs a codec; install pyl"):
        read_picture(encode(film))
    video = make_file(VALUES, UID("1.2.840.10008.1.2.4.102"), PixelData=encapsulate([b"\0\1"]))
    video.PhotometricInterpretation = "YBR_PARTIAL_420"
    with pytest.raises(ImageError, match="a film compressed as MPEG-4"):
        read_picture(encode(video))


@pytest.mark.parametrize(
    ("elements", "shape"),
    [
        ({"PixelAspectRatio": [2, 1]}, (32, 16)),
        ({"PixelSpacing": [0.5, 1.0]}, (16, 32)),
        ({"ImagerPixelSpacing": [0.3, 0.3], "PixelAspectRatio": [2, 1]}, (16, 16)),
        ({"PixelSpacing": [1.0, 1.001]}, (16, 16)),
    ],
)
def test_pixels_become_square(elements: dict[str, object], shape: tuple[int, int]) -> None:
    picture = read_picture(encode(make_file(VALUES, **elements)), channels=1)
    assert picture.shape[1:] == shape and picture.min() >= 0 and picture.max() <= 1


def test_boxes_and_masks_are_stretched_with_the_pixels(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "a.dcm").write_bytes(encode(make_file(VALUES, PixelAspectRatio=[2, 1])))
    (tmp_path / "labels.csv").write_text("file,label\na.dcm,x\n")
    (tmp_path / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax\na.dcm,2,4,6,8\n")
    mask = np.zeros((16, 16), np.uint8)
    mask[4:8, 2:6] = 255
    (tmp_path / "masks").mkdir()
    Image.fromarray(mask).save(tmp_path / "masks" / "a.png")
    item = open_images(tmp_path, channels=1)[0]
    assert item.boxes is not None and item.boxes.tolist() == [[2, 8, 6, 16]]
    assert item.region is not None and item.region.shape == (32, 16)
    rows, columns = item.region.nonzero().unbind(1)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 2, 5)


def test_files_without_pixels_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "IMAGES").mkdir()
    for number in range(2):
        (tmp_path / "IMAGES" / f"IM{number}").write_bytes(encode(make_file(VALUES)))
    report = (REAL / "test-SR.dcm").read_bytes()
    (tmp_path / "DICOMDIR").write_bytes(report)
    (tmp_path / "IMAGES" / "report.dcm").write_bytes(report)
    for spec in (tmp_path, tmp_path / "DICOMDIR", f"{tmp_path}/**"):
        caplog.clear()
        assert open_images(spec, channels=1).names == ("IMAGES/IM0", "IMAGES/IM1")
        assert "left out" in caplog.text and "report.dcm (no pixels)" in caplog.text


WRONG = encode(
    make_file(VALUES, WindowCenter=2000, WindowWidth=1500, RescaleSlope=1, PixelSpacing=[1, 2])
)
KINDS = [
    "FD",
    "FL",
    "US",
    "SS",
    "UL",
    "SL",
    "OW",
    "OB",
    "UN",
    "SQ",
    "DS",
    "IS",
    "CS",
    "AT",
    "UI",
    "UT",
]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(0, 40), st.sampled_from(KINDS), st.binary(max_size=3), st.integers(0, 2000))
def test_elements_of_any_kind_are_read_or_named(
    element: int, kind: str, content: bytes, place: int
) -> None:
    data = bytearray(WRONG)
    starts = [at for at in range(132, len(data) - 8, 2) if data[at : at + 2] == b"\x28\0"]
    at = starts[element % len(starts)]
    data[at + 4 : at + 6] = kind.encode()
    data[at + 8 + place % 16 : at + 8 + place % 16 + len(content)] = content
    try:
        picture = read_picture(bytes(data), channels=None)
    except ApercuError as error:
        assert "\n" not in str(error)
    else:
        assert picture.isfinite().all() and picture.min() >= 0 and picture.max() <= 1


def test_an_element_of_another_kind_is_named() -> None:
    data = WRONG.replace(b"\x28\0\x51\x10DS", b"\x28\0\x51\x10FD")
    assert data != WRONG
    with pytest.raises(ImageError, match="damaged, WindowWidth cannot be read"):
        read_picture(data)
