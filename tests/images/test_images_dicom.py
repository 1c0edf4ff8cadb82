"""DICOM: windows, palettes, frames, codecs, and one-line errors for damaged files."""

from __future__ import annotations

from io import BytesIO
from math import exp
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels.processing import apply_color_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from apercu.errors import ApercuError, ImageError, ImagesError
from apercu.images import open_images
from apercu.images.reader import read_picture

RAMP = np.arange(0, 4096, 64, dtype=np.uint16).reshape(8, 8)
SAMPLES = Path(pydicom.__file__).parent / "data" / "test_files"
"""Real files of many manufacturers that are installed with pydicom."""


def make_dataset(values: NDArray[np.uint16], **tags: object) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1.1"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    file = FileDataset("film.dcm", {}, file_meta=meta, preamble=bytes(128))
    file.SOPClassUID = meta.MediaStorageSOPClassUID
    file.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    file.SeriesInstanceUID = "1.2.3"
    file.PatientName = "Secret^Name"
    frames = values.shape[0] if values.ndim == 3 else 1
    file.Rows, file.Columns = values.shape[-2:]
    if frames > 1:
        file.NumberOfFrames = frames
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
    file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
    file.PixelRepresentation = 0
    file.PixelData = values.tobytes()
    for word, value in tags.items():
        setattr(file, word, value)
    return file


def encode_dicom(file: FileDataset, path: Path | None = None) -> bytes:
    buffer = BytesIO()
    file.save_as(buffer, enforce_file_format=True)
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def read_grey(values: NDArray[np.uint16] = RAMP, **tags: object) -> NDArray[np.float32]:
    return read_picture(encode_dicom(make_dataset(values, **tags)), channels=1)[0].numpy()


def linear_window(value: float, centre: float, width: float) -> float:
    """The pseudo-code of PS3.3, C.11.2.1.2, with 0 and 1 as lowest and highest output."""
    if value <= centre - 0.5 - (width - 1) / 2:
        return 0.0
    if value > centre - 0.5 + (width - 1) / 2:
        return 1.0
    return (value - (centre - 0.5)) / (width - 1) + 0.5


def test_a_linear_window_follows_the_standard() -> None:
    actual = read_grey(WindowCenter=2000, WindowWidth=1500)
    expected = [linear_window(float(value), 2000, 1500) for value in RAMP.ravel()]
    np.testing.assert_allclose(actual.ravel(), expected, atol=1e-6)
    pydicom_s = (
        apply_windowing(RAMP, make_dataset(RAMP, WindowCenter=2000, WindowWidth=1500)) / 4095
    )
    np.testing.assert_allclose(actual, pydicom_s, atol=1e-3)


def test_exact_and_sigmoid_windows() -> None:
    exact = read_grey(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_allclose(exact, np.clip((RAMP - 2000.0) / 1000 + 0.5, 0, 1), atol=1e-6)
    sigmoid = read_grey(WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID")
    expected = [1 / (1 + exp(-4 * (float(value) - 2000) / 1000)) for value in RAMP.ravel()]
    np.testing.assert_allclose(sigmoid.ravel(), expected, atol=1e-6)


def test_the_first_of_several_windows_is_used() -> None:
    both = read_grey(WindowCenter=[2000, 100], WindowWidth=[1500, 50])
    np.testing.assert_array_equal(both, read_grey(WindowCenter=2000, WindowWidth=1500))


def test_the_window_is_in_rescaled_units() -> None:
    actual = read_grey(RescaleSlope=2, RescaleIntercept=-1024, WindowCenter=1000, WindowWidth=3000)
    expected = [linear_window(2 * float(value) - 1024, 1000, 3000) for value in RAMP.ravel()]
    np.testing.assert_allclose(actual.ravel(), expected, atol=1e-6)


def test_a_table_takes_precedence_over_a_window() -> None:
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 8], list(range(255, -1, -1)) * 16
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    actual = read_grey(VOILUTSequence=Sequence([table]), WindowCenter=5, WindowWidth=2)
    np.testing.assert_allclose(actual, (255 - RAMP % 256) / 255, atol=1e-6)


def test_without_a_window_values_are_scaled_without_the_padding() -> None:
    np.testing.assert_allclose(read_grey(), RAMP / RAMP.max(), atol=1e-6)
    padded = RAMP.copy()
    padded[0] = 4095
    actual = read_grey(padded, PixelPaddingValue=4095)
    assert (actual[0] == 0).all()
    rest = RAMP[1:].astype(float)
    np.testing.assert_allclose(actual[1:], (rest - rest.min()) / np.ptp(rest), atol=1e-6)


def test_monochrome1_is_inverted_except_for_its_padding() -> None:
    window = {"WindowCenter": 2000, "WindowWidth": 1500}
    turned = read_grey(PhotometricInterpretation="MONOCHROME1", **window)
    np.testing.assert_allclose(turned, 1 - read_grey(**window), atol=1e-6)
    padded = read_grey(PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0, **window)
    assert padded[0, 0] == 0 and turned[0, 0] == 1


def test_a_constant_image_is_read() -> None:
    assert (read_grey(np.full((4, 4), 7, np.uint16)) == 0).all()


def test_grey_becomes_rgb_for_three_channels() -> None:
    picture = read_picture(encode_dicom(make_dataset(RAMP)), channels=3)
    assert picture.shape == (3, 8, 8)
    assert (picture[0] == picture[2]).all()


def test_palettes_and_colours() -> None:
    path = SAMPLES / "examples_palette.dcm"
    file = pydicom.dcmread(path)
    expected = apply_color_lut(file.pixel_array, file)
    actual = read_picture(path).numpy()
    scale = np.iinfo(expected.dtype).max
    np.testing.assert_allclose(actual, np.moveaxis(expected, 2, 0) / scale, atol=1e-6)
    path = SAMPLES / "SC_rgb_rle_16bit.dcm"
    expected = pydicom.dcmread(path).pixel_array / 65535
    np.testing.assert_allclose(read_picture(path).numpy(), np.moveaxis(expected, 2, 0), atol=1e-6)


def test_every_frame_is_a_picture(tmp_path: Path) -> None:
    encode_dicom(make_dataset(np.stack([RAMP, RAMP.T, RAMP[::-1]])), tmp_path / "scan.dcm")
    for source in (open_images(tmp_path), open_images(tmp_path / "scan.dcm")):
        assert [item.name for item in source] == ["scan.dcm#1", "scan.dcm#2", "scan.dcm#3"]
        expected = RAMP.T / RAMP.max()
        np.testing.assert_allclose(source[1].picture[0].numpy(), expected, atol=1e-6)
    with pytest.raises(ImageError, match="there is no frame 4, the file has 3"):
        read_picture(tmp_path / "scan.dcm", frame=3)


def test_every_frame_has_the_label_of_its_file(tmp_path: Path) -> None:
    encode_dicom(make_dataset(np.stack([RAMP, RAMP.T])), tmp_path / "scan.dcm")
    (tmp_path / "labels.csv").write_text("file,label\nscan.dcm,ill\n")
    assert [item.label for item in open_images(tmp_path)] == ["ill", "ill"]


def test_a_folder_with_slices_of_several_series_is_refused(tmp_path: Path) -> None:
    for number, series in enumerate(("1.2.3", "1.2.3", "1.2.4")):
        values = RAMP if series == "1.2.3" else RAMP[:4]
        path = tmp_path / f"{number}.dcm"
        encode_dicom(make_dataset(np.ascontiguousarray(values), SeriesInstanceUID=series), path)
    with pytest.raises(ImagesError, match="slices of 2 DICOM series in 2 sizes; give each series"):
        open_images(tmp_path)
    (tmp_path / "0.dcm").unlink()  # one image each of two patients is allowed
    assert len(open_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"PhotometricInterpretation": "RGB"}, "expected 3 samples per pixel with RGB, got 1"),
        ({"PhotometricInterpretation": "HSV"}, "expected a photometric interpretation of MONO"),
        ({"Rows": 0}, "an image without pixels"),
        ({"Rows": 9}, "damaged or cut short"),
        ({"Rows": 60000, "Columns": 60000}, "too large, expected at most 100 megapixels"),
        ({"Rows": 1, "Columns": 64}, "too small to explain"),
    ],
)
def test_inconsistent_headers_are_refused(tags: dict[str, object], message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_grey(**tags)
    assert "\n" not in str(caught.value)


def test_files_without_pixels_and_missing_codecs_are_refused() -> None:
    with pytest.raises(ImageError, match=r"without pixels \(Comprehensive SR Storage\)"):
        read_picture(SAMPLES / "test-SR.dcm")
    with pytest.raises(ImageError, match=r"JPEG-LS Lossless.*needs a codec; install .*pyjpegls"):
        read_picture(SAMPLES / "MR_small_jpeg_ls_lossless.dcm")
    with pytest.raises(ImageError, match="damaged or cut short"):
        read_picture(SAMPLES / "MR_truncated.dcm")
    with pytest.raises(ImageError, match="NumberOfFrames is no whole number"):
        read_picture(SAMPLES / "badVR.dcm")


@pytest.mark.parametrize("name", ["liver_1frame", "MR_small_RLE", "JPEG2000", "SC_rgb_jpeg_dcmtk"])
def test_files_of_many_manufacturers_are_read(name: str) -> None:
    picture = read_picture(SAMPLES / f"{name}.dcm")
    assert picture.std() > 0.05


WHOLE = encode_dicom(make_dataset(RAMP, WindowCenter=2000, WindowWidth=1500, RescaleSlope=1))


@given(st.data())
def test_errors_of_damaged_files_are_one_line_without_the_patient(data: st.DataObject) -> None:
    content = bytearray(WHOLE[: data.draw(st.integers(132, len(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 4))):
        offset = data.draw(st.integers(132, max(132, len(content) - 1)))
        content[offset : offset + 1] = bytes([data.draw(st.integers(0, 255))])
    try:
        picture = read_picture(bytes(content), channels=None)
    except ApercuError as error:
        assert "\n" not in str(error) and "Secret" not in str(error)
    else:
        assert picture.isfinite().all()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"WindowWidth": 0, "WindowCenter": 9}, "WindowWidth is 0, expected above 0"),
        (
            {"RescaleSlope": 0, "RescaleIntercept": 0},
            "RescaleSlope is 0, so all pixels become equal",
        ),
    ],
)
def test_transforms_that_show_nothing_are_refused(tags: dict[str, object], message: str) -> None:
    with pytest.raises(ImageError, match=message):
        read_grey(**tags)


def test_truncated_files_differ_from_files_without_pixels() -> None:
    whole = (SAMPLES / "SC_rgb_jpeg_dcmtk.dcm").read_bytes()
    with pytest.raises(ImageError, match="no DICOM file, or one that is damaged or cut short"):
        read_picture(whole[: len(whole) - len(whole) // 3])
    with pytest.raises(ImageError, match=r"cut short, an image without pixels .*X-Ray"):
        read_picture(WHOLE[: WHOLE.index(b"Secret") - 8])
    start = whole.index(b"\xff\xd8\xff")
    damaged = whole[:start] + bytes(40) + whole[start + 40 :]  # no JPEG; its codec is here
    with pytest.raises(ImageError, match=r"damaged or cut short \(\w+\)"):
        read_picture(damaged)


def test_unreadable_compressions_are_refused() -> None:
    file = make_dataset(RAMP)
    file.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.4.102"
    file.PixelData = encapsulate([RAMP.tobytes()])
    with pytest.raises(ImageError, match=r"MPEG-4 .* which pydicom does not read"):
        read_picture(encode_dicom(file))
    private = WHOLE.replace(b"1.2.840.10008.1.2.1", b"1.2.840.99999.1.2.1", 1)
    with pytest.raises(ImageError, match="its transfer syntax is not one of the DICOM standard"):
        read_picture(private)


def make_groups(**tags: object) -> pydicom.Dataset:
    """Build functional groups with one window and one rescaling."""
    window, rescale, item = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
    window.WindowCenter, window.WindowWidth = tags["centre"], tags["width"]
    rescale.RescaleSlope, rescale.RescaleIntercept = 1, 0
    item.FrameVOILUTSequence = Sequence([window])
    item.PixelValueTransformationSequence = Sequence([rescale])
    return item


def test_windows_of_functional_groups_are_applied(tmp_path: Path) -> None:
    frames = np.stack([RAMP, RAMP])
    shared = {"SharedFunctionalGroupsSequence": Sequence([make_groups(centre=2000, width=1500)])}
    encode_dicom(make_dataset(frames, **shared), tmp_path / "shared.dcm")
    alone = read_grey(WindowCenter=2000, WindowWidth=1500)
    for frame in range(2):
        actual = read_picture(tmp_path / "shared.dcm", channels=1, frame=frame)[0].numpy()
        assert np.array_equal(actual, alone)
    own = Sequence([make_groups(centre=2000, width=1500), make_groups(centre=500, width=800)])
    encode_dicom(make_dataset(frames, PerFrameFunctionalGroupsSequence=own), tmp_path / "own.dcm")
    second = read_picture(tmp_path / "own.dcm", channels=1, frame=1)[0].numpy()
    assert np.array_equal(second, read_grey(WindowCenter=500, WindowWidth=800))


def test_files_without_a_suffix_are_recognised(tmp_path: Path) -> None:
    encode_dicom(make_dataset(np.stack([RAMP] * 3)), tmp_path / "IM0001")
    encode_dicom(make_dataset(RAMP), tmp_path / "1.2.840.1")
    (tmp_path / "DICOMDIR.txt").write_text("no picture")
    source = open_images(tmp_path, channels=1)
    assert [item.name for item in source] == ["1.2.840.1", "IM0001#1", "IM0001#2", "IM0001#3"]
    assert len(open_images(tmp_path / "IM0001", channels=1)) == 3
