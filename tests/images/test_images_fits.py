"""FITS: scaling, blanks, bands by name, cubes, compression, and errors for damaged files."""

from __future__ import annotations

import gzip
import io
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from astropy.io import fits
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, MissingExtraError
from apercu.images import limits as unpacking
from apercu.images import open_images, read_picture
from apercu.images.folder import FolderImages
from apercu.images.formats.fits import decode_fits

RAMP = np.arange(30, dtype=np.float32).reshape(5, 6) - 7
BANDS = ("SCIENCE", "TEMPLATE", "DIFFERENCE")


def format_card(word: str, value: str) -> bytes:
    return f"{word:<8}= {value:>20}".ljust(80).encode()


def encode_by_hand(body: bytes, *cards: tuple[str, str]) -> bytes:
    """A file written letter by letter, as the FITS standard 4.0 has it, section 4.4.1."""
    header = b"".join(format_card(*pair) for pair in (("SIMPLE", "T"), *cards)) + b"END".ljust(80)
    return header.ljust(-len(header) // 2880 * -2880) + body.ljust(
        -len(body) // 2880 * -2880, b"\0"
    )


def encode_hdus(*hdus: Any) -> bytes:
    first = hdus[0] if isinstance(hdus[0], fits.PrimaryHDU) else fits.PrimaryHDU()
    rest = hdus[1:] if hdus[0] is first else hdus
    stream = io.BytesIO()
    fits.HDUList([first, *rest]).writeto(stream)
    return stream.getvalue()


def encode_bands(*names: str, values: NDArray[Any] = RAMP) -> bytes:
    """Band k holds the ramp, plus 100 k."""
    return encode_hdus(
        *(fits.ImageHDU(values + 100 * k, name=name) for k, name in enumerate(names))
    )


def read(data: bytes) -> NDArray[np.float32]:
    return read_picture(data, channels=None).numpy()


INT16 = (("BITPIX", "16"), ("NAXIS", "2"), ("NAXIS1", "3"), ("NAXIS2", "2"))
COUNTS = np.array([[-32768, -1, 0], [1, 2, 32767]], ">i2")


def test_integers_are_scaled_as_the_standard_says() -> None:
    plain = read(encode_by_hand(COUNTS.tobytes(), *INT16))
    np.testing.assert_array_equal(plain, COUNTS[None].astype(np.float32))
    scaled = read(encode_by_hand(COUNTS.tobytes(), *INT16, ("BSCALE", "0.5"), ("BZERO", "10")))
    np.testing.assert_array_equal(scaled, COUNTS[None] * np.float32(0.5) + 10)
    unsigned = read(encode_by_hand(COUNTS.tobytes(), *INT16, ("BZERO", "32768")))
    np.testing.assert_array_equal(unsigned[0], [[0, 32767, 32768], [32769, 32770, 65535]])


@pytest.mark.parametrize("extra", [(), (("BZERO", "32768"),), (("BSCALE", "2.0"),)], ids=str)
def test_blank_is_nan(extra: tuple[tuple[str, str], ...]) -> None:
    actual = read(encode_by_hand(COUNTS.tobytes(), *INT16, ("BLANK", "-1"), *extra))
    assert np.isnan(actual).tolist() == [[[False, True, False], [False, False, False]]]


def test_bytes_and_floats_of_both_widths() -> None:
    header = (("NAXIS", "2"), ("NAXIS1", "3"), ("NAXIS2", "2"))
    for code, kind in ((8, ">u1"), (32, ">i4"), (64, ">i8"), (-32, ">f4"), (-64, ">f8")):
        values = np.array([[0, 1, 2], [3, 100, 200]], kind)
        actual = read(encode_by_hand(values.tobytes(), ("BITPIX", str(code)), *header))
        assert actual.dtype == np.float32
        np.testing.assert_array_equal(actual, values[None])


def test_rows_stay_in_the_order_of_the_file() -> None:
    np.testing.assert_array_equal(read(encode_hdus(fits.PrimaryHDU(RAMP))), RAMP[None])


def test_infinite_and_saturated_pixels_become_nan() -> None:
    values = RAMP.copy()
    values[0, :3] = np.nan, np.inf, -np.inf
    hdu = fits.PrimaryHDU(values)
    hdu.header["SATURATE"] = 20.0
    actual = read(encode_hdus(hdu))[0]
    expected = values >= 20
    expected[0, :3] = True
    np.testing.assert_array_equal(np.isnan(actual), expected)
    assert actual[4, 2] == 19 and values[4, 3] == 20


@pytest.mark.parametrize("limit", ["0", "-1.0", "T", "1E300", "'high'", ""])
def test_invalid_saturation_cards_are_ignored(limit: str) -> None:
    data = encode_by_hand(COUNTS.tobytes(), *INT16, ("SATURATE", limit))
    assert not np.isnan(read(data)).any()


def test_saturation_applies_to_its_own_band_only() -> None:
    bands = [fits.ImageHDU(RAMP, name=name) for name in ("A", "B")]
    bands[0].header["SATURATE"] = 10
    actual = read(encode_hdus(*bands))
    assert np.isnan(actual[0]).sum() == (RAMP >= 10).sum() > 0 and not np.isnan(actual[1]).any()


def test_a_cube_gives_its_planes_and_axes_of_one_are_dropped() -> None:
    cube = np.stack([RAMP, RAMP + 1, RAMP + 2])
    np.testing.assert_array_equal(read(encode_hdus(fits.PrimaryHDU(cube))), cube)
    np.testing.assert_array_equal(read(encode_hdus(fits.PrimaryHDU(cube[None]))), cube)
    np.testing.assert_array_equal(read(encode_hdus(fits.PrimaryHDU(RAMP[None, None]))), RAMP[None])


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_1", "GZIP_2"])
def test_compressed_images(kind: str) -> None:
    values = np.arange(32 * 40, dtype=np.int16).reshape(32, 40)
    actual = read(encode_hdus(fits.CompImageHDU(values, compression_type=kind)))
    np.testing.assert_array_equal(actual, values[None])


def test_compressed_images_on_disk(tmp_path: Path) -> None:
    values = np.arange(32 * 40, dtype=np.int16).reshape(32, 40)
    for kind in ("RICE_1", "GZIP_1"):
        path = tmp_path / f"{kind}.fits"
        path.write_bytes(encode_hdus(fits.CompImageHDU(values, compression_type=kind)))
        np.testing.assert_array_equal(read_picture(path, channels=1), values[None])


@pytest.mark.parametrize("kind", ["PLIO_1", "HCOMPRESS_1"])
def test_compressions_that_are_not_safe_are_refused(kind: str) -> None:
    values = np.arange(32 * 40, dtype=np.int16).reshape(32, 40)
    with pytest.raises(ImageError, match=f"compressed as {kind}, expected RICE_1, .* unpack it"):
        read(encode_hdus(fits.CompImageHDU(values, compression_type=kind)))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ZVAL1   =                   32", b"ZVAL1   =                  -32", "BLOCKSIZE .* -32"),
        (b"ZVAL2   =                    2", b"ZVAL2   =                    3", "BYTEPIX .* is 3"),
        (b"ZTILE1  =                   40", b"ZTILE1  =                    0", "impossible size"),
        (b"ZTILE2  =                    1", b"ZTILE2  =             40000000", "impossible size"),
    ],
)
def test_parameters_of_compressed_images_are_checked(old: bytes, new: bytes, message: str) -> None:
    values = np.arange(32 * 40, dtype=np.int16).reshape(32, 40)
    data = encode_hdus(fits.CompImageHDU(values, compression_type="RICE_1"))
    assert data.count(old) == 1
    with pytest.raises(ImageError, match=message):
        read(data.replace(old, new))


def test_tables_are_skipped() -> None:
    table = fits.BinTableHDU.from_columns([fits.Column("a", "J", array=np.arange(3))])
    actual = decode_fits(io.BytesIO(encode_hdus(table, fits.ImageHDU(RAMP, name="X"))), "a.fits")
    assert actual.names == ("X",) and actual.pixels.shape == (1, 5, 6)


def test_names_of_bands() -> None:
    filtered, both, silent = (fits.ImageHDU(RAMP) for _ in range(3))
    filtered.header["FILTER"] = "g"
    both.header["EXTNAME"], both.header["BAND"] = "SCI", "r"
    cube = fits.ImageHDU(np.stack([RAMP] * 2), name="CUBE")
    packed = fits.CompImageHDU(RAMP.astype(np.int16))
    empty = fits.ImageHDU(RAMP)
    empty.header["FILTER"], empty.header["BAND"] = None, 4
    data = encode_hdus(filtered, both, silent, cube, packed, empty)
    assert decode_fits(io.BytesIO(data), "a").names == ("g", "SCI", "", "", "", "", "4")


def test_grey_and_colour_are_not_converted() -> None:
    with pytest.raises(ImageError, match=r"expected 3 bands, one per channel, got 1 \(unnamed\)"):
        read_picture(encode_hdus(fits.PrimaryHDU(RAMP)), channels=3)
    with pytest.raises(ImageError, match=r"expected 1 bands, .* got 3 \(SCIENCE, TEMPLATE, DIFF"):
        read_picture(encode_bands(*BANDS), channels=1)


def write_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_bands_come_in_the_order_of_the_first_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a.fits", encode_bands(*BANDS))
    write_file(tmp_path / "b.fit", encode_bands(*reversed(BANDS)))
    write_file(tmp_path / "c.fits.gz", gzip.compress(encode_bands("EXTRA", *BANDS)))
    source = open_images(tmp_path)
    assert isinstance(source, FolderImages) and source.bands == BANDS
    assert [item.name for item in source] == ["a.fits", "b.fit", "c.fits.gz"]
    offsets = [item.picture[:, 0, 0] + 7 for item in source]
    assert [values.tolist() for values in offsets] == [
        [0, 100, 200],
        [200, 100, 0],
        [100, 200, 300],
    ]


def test_bands_come_in_the_requested_order(tmp_path: Path) -> None:
    write_file(tmp_path / "a.fits", encode_bands(*BANDS))
    pair = open_images(tmp_path, channels=2, bands=("DIFFERENCE", "SCIENCE"))
    assert (pair[0].picture[:, 0, 0] + 7).tolist() == [200, 0]
    single = open_images(tmp_path / "a.fits", channels=1, bands=("TEMPLATE",))
    assert (single[0].picture[:, 0, 0] + 7).tolist() == [100]
    message = r"bands: expected 3 names, one per channel, got 2 \(g, r\)"
    with pytest.raises(ConfigError, match=message):
        open_images(tmp_path, bands=("g", "r"))
    with pytest.raises(ConfigError, match="bands: expected each name once, got g, r, g"):
        open_images(tmp_path, bands=("g", "r", "g"))


def test_missing_and_repeated_bands_are_named(tmp_path: Path) -> None:
    write_file(tmp_path / "a.fits", encode_bands("g", "r"))
    write_file(tmp_path / "b.fits", encode_bands("g", "i"))
    write_file(tmp_path / "c.fits", encode_bands("g", "r", "r"))
    source = open_images(tmp_path, channels=2)
    assert source[0].picture.shape == (2, 5, 6)
    with pytest.raises(ImageError, match=r"b\.fits: lacks band R, has G, I"):
        source[1]
    with pytest.raises(ImageError, match=r"c\.fits: names 2 bands R, expected one"):
        source[2]


def test_bands_without_names_keep_the_order_of_the_file(tmp_path: Path) -> None:
    write_file(tmp_path / "a.fits", encode_hdus(fits.PrimaryHDU(RAMP), fits.ImageHDU(RAMP + 100)))
    source = open_images(tmp_path, channels=2)
    assert source.bands is None and source[0].picture[1, 0, 0] == 93  # type: ignore[attr-defined]
    reordered = open_images(tmp_path, channels=2, bands=("r", "g"))
    with pytest.raises(ImageError, match=r"a\.fits: expected bands r, g, got unnamed, unnamed"):
        reordered[0]
    with pytest.raises(ImageError, match=r"a\.fits: expected 3 bands, .* got 2 \(unnamed, unnam"):
        open_images(tmp_path, channels=3)[0]


UNNAMED = encode_hdus(fits.PrimaryHDU(np.stack([RAMP] * 3)))


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (encode_bands(*BANDS)[:-4000], "damaged"),
        (UNNAMED, "expected bands SCIENCE, TEMPLATE, DIFFERENCE, got unnamed, unnamed, unnamed"),
        (
            encode_bands("SCIENCE", "", "TEMPLATE"),
            "expected bands .*, got SCIENCE, unnamed, TEMPLATE",
        ),
        (encode_bands("TEMPLATE"), "lacks band SCIENCE, has TEMPLATE"),
        (encode_bands("G", "R", "R"), "lacks band SCIENCE, has G, R, R"),
    ],
    ids=["damaged", "unnamed", "half named", "fewer", "twice"],
)
def test_the_first_unambiguous_file_gives_the_order(
    tmp_path: Path, first: bytes, message: str
) -> None:
    write_file(tmp_path / "a.fits", first)
    write_file(tmp_path / "b.fits", encode_bands(*BANDS))
    write_file(tmp_path / "c.fits", encode_bands(*reversed(BANDS)))
    write_file(tmp_path / "d.fits", encode_bands("G", "R", "I"))
    source = open_images(tmp_path)
    assert isinstance(source, FolderImages) and source.bands == BANDS
    with pytest.raises(ImageError, match=rf"a\.fits: .*{message}") as caught:
        source[0]
    assert "\n" not in str(caught.value)
    offsets = [(source[index].picture[:, 0, 0] + 7).tolist() for index in (1, 2)]
    assert offsets == [[0, 100, 200], [200, 100, 0]]
    with pytest.raises(ImageError, match=r"d\.fits: lacks band SCIENCE, has G, R, I"):
        source[3]


def test_folders_may_mix_fits_and_other_formats(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.full((4, 4), 0.5))
    write_file(tmp_path / "b.FITS", encode_bands(*BANDS, values=RAMP * 1000))
    array, stamp = open_images(tmp_path)
    assert array.picture.shape == (3, 4, 4) and stamp.picture.max() > 1


GROUPS = (("GROUPS", "T"), ("PCOUNT", "1"), ("GCOUNT", "1"))
FLOATS = (("BITPIX", "-32"), ("NAXIS", "2"))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (encode_hdus(fits.PrimaryHDU()), "a FITS file without images; choose one"),
        (encode_by_hand(b"", ("BITPIX", "8"), ("NAXIS", "0")), "without images"),
        (encode_hdus(fits.PrimaryHDU(RAMP * np.nan)), "expected pixels, got only NaN"),
        (
            encode_hdus(fits.PrimaryHDU(RAMP[0])),
            r"expected an image of 2 or 3 axes, got 6 in HDU 0",
        ),
        (encode_hdus(fits.PrimaryHDU(np.zeros((2, 3, 4, 5)))), "axes, got 2 × 3 × 4 × 5 in HDU 0"),
        (encode_hdus(fits.PrimaryHDU(RAMP[:1])), "at least 2 × 2 pixels, got 6 × 1"),
        (encode_hdus(fits.PrimaryHDU(np.zeros((13, 4, 4)))), "at most 12 bands, got 13"),
        (
            encode_hdus(fits.PrimaryHDU(RAMP), fits.ImageHDU(RAMP.T)),
            r"bands of one size, got 6 × 5 and 5 × 6 \(width × height\)",
        ),
        (
            encode_by_hand(b"", *FLOATS, ("NAXIS1", "60000"), ("NAXIS2", "60000")),
            "at most 100 megapixels",
        ),
        (
            encode_by_hand(b"", *FLOATS, ("NAXIS1", "600"), ("NAXIS2", "600")),
            "cut short, expected 1442880",
        ),
        (encode_by_hand(b"", *FLOATS, ("NAXIS1", "0"), ("NAXIS2", "9")), "too small|damaged"),
        (encode_by_hand(b"", ("BITPIX", "7"), *INT16[1:]), "damaged|unknown|cut short"),
        (encode_by_hand(b"", ("BITPIX", "16"), ("NAXIS", "2")), "damaged"),
        (
            encode_by_hand(b"\0" * 99, ("BITPIX", "8"), ("NAXIS", "1"), ("NAXIS1", "0"), *GROUPS),
            "no image",
        ),
        (encode_bands(*BANDS)[:-2880], "cut short"),
        (encode_bands(*BANDS)[:-4000], "damaged, the header of HDU 3 cannot be read"),
        (b"SIMPLE  =", "damaged or cut short"),
        (b"SIMPLE  = F".ljust(2880), "damaged"),
        (gzip.compress(b"text", mtime=0), "gzip'ed, but no FITS file inside"),
        (gzip.compress(encode_bands("A"))[:-20], r"damaged or cut short \(gzip\)"),
        (b"\x1f\x8b\x08", "damaged or cut short"),
    ],
)
def test_bad_bytes(data: bytes, message: str) -> None:
    with pytest.raises(ImageError, match=message) as caught:
        read_picture(data, channels=None)
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = write_file(tmp_path / "a.fits", b"not so")
    with pytest.raises(ImageError, match=r"a\.fits: no FITS file, or one that is damaged"):
        read_picture(path)
    with pytest.raises(ImageError, match=r"gone\.fits: cannot be read \(No such file"):
        read_picture(tmp_path / "gone.fits")


def test_files_that_unpack_to_too_much_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    large_header = encode_by_hand(b"", *FLOATS, ("NAXIS1", "60000"), ("NAXIS2", "60000"))
    with pytest.raises(ImageError, match="at most 100 megapixels, got 60000 × 60000"):
        read_picture(gzip.compress(large_header + bytes(1 << 24)))
    monkeypatch.setattr(unpacking, "MAX_UNPACKED_BYTES", 1 << 22)
    with pytest.raises(ImageError, match="too large, expected at most 4 MiB unpacked"):
        read_picture(gzip.compress(encode_bands("A") + bytes(1 << 24)))


def test_without_astropy_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "astropy", None)
    message = r"astropy is not installed; pip install 'apercu\[astro\]'"
    with pytest.raises(MissingExtraError, match=message):
        read_picture(encode_bands("A"))


def _seeds() -> list[bytes]:
    generator = np.random.default_rng(0)
    values = generator.integers(0, 3000, (16, 12)).astype(np.int16)
    scaled = fits.PrimaryHDU(values)
    scaled.header["BLANK"], scaled.header["BSCALE"], scaled.header["BZERO"] = 7, 0.5, 100
    kinds = ("RICE_1", "GZIP_1", "GZIP_2")
    plain = [
        encode_hdus(scaled),
        encode_bands(*BANDS),
        encode_hdus(fits.PrimaryHDU(np.stack([RAMP] * 3))),
    ]
    packed = [encode_hdus(fits.CompImageHDU(values, compression_type=kind)) for kind in kinds]
    floats = fits.CompImageHDU(generator.normal(size=(16, 12)).astype(np.float32))
    return [*plain, *packed, encode_hdus(floats), gzip.compress(plain[0], mtime=0)]


SEEDS = _seeds()
BUDGET = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def check(data: bytes) -> bool:
    """Did the bytes give a picture? Fails on any error but ImageError, and on any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            picture = read_picture(data, channels=None)
        except ImageError as error:
            assert "\n" not in str(error)
            return False
    assert picture.dtype == torch.float32 and picture.ndim == 3 and picture.is_contiguous()
    assert not torch.isinf(picture).any() and not torch.isnan(picture).all()
    return True


def test_unchanged_files_are_read() -> None:
    assert [check(seed) for seed in SEEDS] == [True] * len(SEEDS)


CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=12)
DIGITS = st.lists(st.tuples(st.integers(0, 90), st.sampled_from("0123456789-. TF'E")), max_size=4)


def test_mutated_bytes_are_read_or_refused() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(st.sampled_from(SEEDS), CHANGES, st.floats(0, 1))
    def try_one(seed: bytes, changes: list[tuple[float, int]], kept: float) -> None:
        data = bytearray(seed)
        for position, value in changes:
            data[int(position * (len(data) - 1))] = value
        outcomes.add(check(bytes(data[: int(len(data) * min(1.0, 2 * kept))])))

    try_one()
    assert outcomes == {True, False}


def test_mutated_cards_are_read_or_refused() -> None:
    outcomes: set[bool] = set()

    @BUDGET
    @given(st.sampled_from(SEEDS), DIGITS, st.sampled_from([0, 2880]))
    def try_one(seed: bytes, changes: list[tuple[int, str]], start: int) -> None:
        data = bytearray(seed)
        for position, letter in changes:
            line, column = divmod(position, 3)
            at = start + 80 * line + 27 + column
            if at < len(data):
                data[at] = ord(letter)
        outcomes.add(check(bytes(data)))

    try_one()
    assert outcomes == {True, False}


def test_real_stamps_equal_those_of_the_stack(apercu_data: Path) -> None:
    folder = apercu_data / "data" / "ztf"
    stamps, stack = open_images(folder / "fits"), open_images(folder / "alerts.npz")
    assert isinstance(stamps, FolderImages) and stamps.bands == BANDS
    assert (len(stamps), len(stack)) == (60, 1284)
    for item in stamps:
        header = fits.getheader(folder / "fits" / item.name)
        other = stack[header["ROW"]]
        assert other.name == header["CANDID"]
        np.testing.assert_allclose(
            other.picture.numpy(), item.picture.numpy(), rtol=5e-4, atol=1e-4, equal_nan=True
        )


def test_one_band_of_many_by_name_version_and_number(tmp_path: Path) -> None:
    hdus = [fits.PrimaryHDU()]
    for version in (1, 2):
        for number, name in enumerate(("SCI", "ERR")):
            hdu = fits.ImageHDU(RAMP + 100 * version + 10 * number, name=name, ver=version)
            hdus.append(hdu)
    hdus.append(fits.ImageHDU(np.zeros((3, 2), np.float32), name="PSF"))
    write_file(tmp_path / "a.fits", encode_hdus(*hdus))
    read = {
        "[SCI,2]": 200,
        "[ERR,1]": 110,
        "[3]": 200,
        "[SCI:1]": 100,
    }
    for brackets, offset in read.items():
        picture = open_images(f"{tmp_path}/a.fits{brackets}")[0].picture
        assert picture.shape == (3, *RAMP.shape)
        np.testing.assert_array_equal(picture[2].numpy(), RAMP + offset)
    pair = open_images(f"{tmp_path}/a.fits[ERR,2][SCI,1]", channels=2)[0].picture
    np.testing.assert_array_equal(pair[0].numpy(), RAMP + 210)
    with pytest.raises(ImageError, match="names 2 bands SCI, expected one; add a version"):
        open_images(f"{tmp_path}/a.fits[SCI]")[0]
    with pytest.raises(ImageError, match="expected bands of one size, got 6 × 5 and 2 × 3"):
        open_images(tmp_path / "a.fits")[0]
    with pytest.raises(ImageError, match="lacks band SKY"):
        open_images(f"{tmp_path}/a.fits[SKY]")[0]


def test_planes_of_a_long_cube_by_number(tmp_path: Path) -> None:
    cube = np.stack([RAMP + plane for plane in range(20)])
    write_file(tmp_path / "a.fits", encode_hdus(fits.PrimaryHDU(cube)))
    picture = open_images(f"{tmp_path}/a.fits[1][5][20]")[0].picture.numpy()
    np.testing.assert_array_equal(picture, cube[[0, 4, 19]])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int32])
def test_a_blank_of_zero(kind: type) -> None:
    hdu = fits.PrimaryHDU(np.array([[0, 1], [2, 0]], kind))
    hdu.header["BLANK"] = 0
    picture = read_picture(encode_hdus(hdu), channels=1)[0].numpy()
    np.testing.assert_array_equal(picture, [[np.nan, 1], [2, np.nan]])


def test_a_blank_of_zero_in_scaled_pixels() -> None:
    cards = (("BITPIX", "16"), ("NAXIS", "2"), ("NAXIS1", "2"), ("NAXIS2", "2"))
    pixels = np.array([[0, 1], [2, 3]], ">i2").tobytes()
    scale = (("BLANK", "0"), ("BSCALE", "2.0"), ("BZERO", "10.0"))
    picture = read_picture(encode_by_hand(pixels, *cards, *scale), channels=1)[0].numpy()
    np.testing.assert_array_equal(picture, [[np.nan, 12], [14, 16]])


@pytest.mark.parametrize("blank", ["1.0", "'1       '", "0.0", "1"])
def test_a_blank_in_other_spellings(blank: str) -> None:
    cards = (("BITPIX", "16"), ("NAXIS", "2"), ("NAXIS1", "2"), ("NAXIS2", "2"))
    pixels = np.array([[0, 1], [2, 3]], ">i2").tobytes()
    for extra in ((), (("BSCALE", "2.0"), ("BZERO", "10.0"))):
        data = encode_by_hand(pixels, *cards, ("BLANK", blank), *extra)
        picture = read_picture(data, channels=1)[0].numpy()
        assert np.isnan(picture).tolist() == [["0" in blank[:1], "1" in blank], [False, False]]
