"""Stamps against slices by hand, their coordinates against the frame's, and what is left out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImageError, ImagesError
from apercu.images.catalogue import Catalogue
from apercu.images.catalogue.cutouts import CatalogueObjects, CutoutStatus, cut_stamps, read_objects

HEIGHT, WIDTH = 40, 60
PIXELS = np.arange(HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH)


def make_header(ra: float = 10.0, dec: float = 60.0, **cards: Any) -> fits.Header:
    """A gnomonic projection, turned by 30 degrees, whose reference is pixel (30, 20) from 0."""
    scale, turn = 1 / 3600, np.deg2rad(30)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"})
    header.update({"CRPIX1": 31, "CRPIX2": 21, "CRVAL1": ra, "CRVAL2": dec})
    header.update({"CD1_1": -scale * np.cos(turn), "CD1_2": scale * np.sin(turn)})
    header.update({"CD2_1": scale * np.sin(turn), "CD2_2": scale * np.cos(turn), **cards})
    return header


def write_frame(path: Path, *bands: tuple[str, NDArray[Any], fits.Header | None]) -> Path:
    hdus = [fits.ImageHDU(pixels, header, name=name) for name, pixels, header in bands]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def cut_and_open(
    path: list[Path], objects: CatalogueObjects, size: int
) -> tuple[list[CutoutStatus], dict[int, Any]]:
    kept: dict[int, bytes] = {}
    statuses = cut_stamps(path, objects, size, kept.__setitem__)
    return statuses, {index: fits.open(io.BytesIO(data)) for index, data in kept.items()}


def make_objects(*positions: tuple[float, float], in_pixels: bool = True) -> CatalogueObjects:
    ids = tuple(f"o{number}" for number in range(len(positions)))
    return CatalogueObjects(ids, np.array(positions, dtype=float), in_pixels)


def cut_by_slice(x: int, y: int, size: int) -> NDArray[np.float32]:
    """Pixel by pixel."""
    half = size // 2
    actual = np.full((size, size), np.nan, np.float32)
    for row in range(size):
        for column in range(size):
            j, i = y - half + row, x - half + column
            if 0 <= j < HEIGHT and 0 <= i < WIDTH:
                actual[row, column] = PIXELS[j, i]
    return actual


def test_pixels_are_those_of_a_slice(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, None), ("B", PIXELS + 0.5, None))
    positions = [(30.0, 20.0), (0.2, 20.4), (57.6, 38.0)]
    statuses, stamps = cut_and_open([path], make_objects(*positions), 7)
    assert statuses == [CutoutStatus.CUT] * 3
    for index, (x, y) in enumerate([(30, 20), (0, 20), (58, 38)]):
        stamp = stamps[index]
        assert [hdu.header["EXTNAME"] for hdu in stamp] == ["A", "B"]
        assert stamp[0].header["OBJID"] == f"o{index}" and "RA" not in stamp[0].header
        assert stamp[0].header["BITPIX"] == stamp[1].header["BITPIX"] == -32
        np.testing.assert_array_equal(stamp[0].data, cut_by_slice(x, y, 7))
        np.testing.assert_array_equal(stamp[1].data, cut_by_slice(x, y, 7) + np.float32(0.5))


def test_sky_positions_are_cut_and_written(tmp_path: Path) -> None:
    header = make_header()
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, header), ("B", PIXELS, None))
    expected = [(30, 20), (12, 31), (2, 2)]
    positions = [tuple(map(float, WCS(header).all_pix2world(x, y, 0))) for x, y in expected]
    statuses, stamps = cut_and_open([path], make_objects(*positions, in_pixels=False), 9)
    assert statuses == [CutoutStatus.CUT] * 3
    for index, (x, y) in enumerate(expected):
        for hdu in stamps[index]:
            np.testing.assert_array_equal(hdu.data, cut_by_slice(x, y, 9))
        head = stamps[index][0].header
        assert (head["RA"], head["DEC"]) == pytest.approx(positions[index], abs=1e-10)
        for column, row in ((4, 4), (0, 0), (8, 3)):
            own = WCS(head).all_pix2world(column, row, 0)
            np.testing.assert_allclose(
                own, WCS(header).all_pix2world(x - 4 + column, y - 4 + row, 0), atol=1e-9
            )


def test_pixel_positions_give_the_sky_position_of_the_header(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, make_header()))
    _, stamps = cut_and_open([path], make_objects((30.0, 20.0)), 5)
    head = stamps[0][0].header
    assert (head["RA"], head["DEC"]) == pytest.approx((10.0, 60.0), abs=1e-9)


def test_distortions_are_kept(tmp_path: Path) -> None:
    header = make_header(A_ORDER=2, B_ORDER=2, A_2_0=1e-3, B_0_2=-2e-3)
    header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"})
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, header))
    whole = WCS(header)
    position = tuple(map(float, whole.all_pix2world(50, 10, 0)))
    _, stamps = cut_and_open([path], make_objects(position, in_pixels=False), 7)
    np.testing.assert_array_equal(stamps[0][0].data, cut_by_slice(50, 10, 7))
    own = WCS(stamps[0][0].header).all_pix2world(6, 1, 0)
    np.testing.assert_allclose(own, whole.all_pix2world(53, 8, 0), atol=1e-9)
    assert abs(whole.all_pix2world(53, 8, 0)[1] - whole.wcs_pix2world(53, 8, 0)[1]) > 1e-6


def test_each_band_is_cut_by_its_own_coordinates(tmp_path: Path) -> None:
    moved = make_header()
    moved["CRPIX1"] += 3
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, make_header()), ("B", PIXELS, moved))
    _, stamps = cut_and_open([path], make_objects((10.0, 60.0), in_pixels=False), 5)
    np.testing.assert_array_equal(stamps[0][0].data, cut_by_slice(30, 20, 5))
    np.testing.assert_array_equal(stamps[0][1].data, cut_by_slice(33, 20, 5))


def test_a_band_that_overlaps_elsewhere_is_nan(tmp_path: Path) -> None:
    moved = make_header()
    moved["CRPIX1"] += 40
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, make_header()), ("B", PIXELS, moved))
    statuses, stamps = cut_and_open([path], make_objects((10.0, 60.0), in_pixels=False), 5)
    assert statuses == [CutoutStatus.CUT] and np.isnan(stamps[0][1].data).all()
    assert stamps[0][1].data.shape == (5, 5) and not np.isnan(stamps[0][0].data).any()


@pytest.mark.parametrize("names", [("SCI", "SCI"), ("CCD1", "CCD2")])
def test_chips_of_a_mosaic_are_fields_of_their_own(tmp_path: Path, names: tuple[str, str]) -> None:
    first, second = make_header(), make_header(ra=10.2)
    path = write_frame(
        tmp_path / "f.fits", (names[0], PIXELS, first), (names[1], PIXELS + 5000, second)
    )
    positions = [(10.0, 60.0), (10.2, 60.0), (11.0, 60.0)]
    statuses, stamps = cut_and_open([path], make_objects(*positions, in_pixels=False), 5)
    assert statuses == [CutoutStatus.CUT, CutoutStatus.CUT, CutoutStatus.OUTSIDE]
    assert [len(stamps[index]) for index in (0, 1)] == [1, 1]
    np.testing.assert_array_equal(stamps[0][0].data, cut_by_slice(30, 20, 5))
    np.testing.assert_array_equal(stamps[1][0].data, cut_by_slice(30, 20, 5) + 5000)
    with pytest.raises(ImagesError, match="has 2 chips, so x and y could mean any of them"):
        cut_and_open([path], make_objects((30.0, 20.0)), 5)


def test_left_over_distortions_are_not_applied(tmp_path: Path) -> None:
    header = make_header(A_ORDER=2, B_ORDER=2, A_2_0=1e-3, B_0_2=-2e-3)
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, header))
    position = WCS(make_header()).wcs_pix2world(50, 10, 0)
    objects = make_objects(tuple(map(float, position)), in_pixels=False)
    _, stamps = cut_and_open([path], objects, 7)
    np.testing.assert_array_equal(stamps[0][0].data, cut_by_slice(50, 10, 7))


def test_each_object_without_a_stamp_has_a_status(tmp_path: Path) -> None:
    holed = PIXELS.copy()
    holed[:, 20:] = np.nan
    path = write_frame(tmp_path / "f.fits", ("A", holed, None))
    positions = [(10.0, 20.0), (19.0, 20.0), (20.0, 20.0), (60.0, 5.0), (-0.6, 5.0), (np.nan, 5.0)]
    statuses, stamps = cut_and_open([path], make_objects(*positions), 5)
    expected = [
        CutoutStatus.CUT,
        CutoutStatus.CUT,
        CutoutStatus.MISSING,
        CutoutStatus.OUTSIDE,
        CutoutStatus.OUTSIDE,
        CutoutStatus.UNKNOWN_POSITION,
    ]
    assert statuses == expected and set(stamps) == {0, 1}
    assert np.isnan(stamps[1][0].data).sum() == 10


def test_the_first_frame_with_enough_pixels_is_used(tmp_path: Path) -> None:
    holed = np.full_like(PIXELS, np.nan)
    first = write_frame(tmp_path / "1.fits", ("A", holed, make_header()))
    second = write_frame(tmp_path / "2.fits", ("A", PIXELS, make_header()))
    third = write_frame(tmp_path / "3.fits", ("A", PIXELS + 9000, make_header(ra=200.0)))
    sky = make_objects((10.0, 60.0), (200.0, 60.0), (100.0, 0.0), in_pixels=False)
    statuses, stamps = cut_and_open([first, second, third, second], sky, 5)
    assert statuses == [CutoutStatus.CUT, CutoutStatus.CUT, CutoutStatus.OUTSIDE]
    np.testing.assert_array_equal(stamps[0][0].data, cut_by_slice(30, 20, 5))
    np.testing.assert_array_equal(stamps[1][0].data, cut_by_slice(30, 20, 5) + 9000)
    with pytest.raises(ConfigError, match="x and y: expected one frame, got 2; give right asc"):
        cut_and_open([first, second], make_objects((1.0, 1.0)), 5)


def test_unusable_frames_are_refused(tmp_path: Path) -> None:
    path = write_frame(tmp_path / "f.fits", ("A", PIXELS, None))
    with pytest.raises(
        ImagesError, match=r"f\.fits: has no celestial coordinates; give the positions .* \(--x"
    ):
        cut_and_open([path], make_objects((1.0, 1.0), in_pixels=False), 5)
    with pytest.raises(ImageError, match=r"gone\.fits: cannot be read"):
        cut_and_open([tmp_path / "gone.fits"], make_objects((1.0, 1.0)), 5)


def make_catalogue(**columns: Any) -> Catalogue:
    return Catalogue(Path("c.csv"), {name: np.array(v) for name, v in columns.items()})


def test_objects_of_a_catalogue() -> None:
    catalogue = make_catalogue(
        ra=[99.0, 400.0], dec=[1.0, 1.0], X=[1.0, 5.5], Y=[2.0, -1.0], id=[7, 8], t=[3, 3]
    )
    sky = read_objects(catalogue, ("ra", "dec"), ids="id")
    assert sky.ids == ("7", "8")
    np.testing.assert_array_equal(sky.positions, [[99, 1], [np.nan, np.nan]])
    pixels = read_objects(catalogue, ("X", "Y"), in_pixels=True)
    assert pixels.ids == ("0", "1") and pixels.positions.tolist() == [[0, 1], [4.5, -2]]
    with pytest.raises(ConfigError, match="expected each t once, got 3 in rows 1 and 2"):
        read_objects(catalogue, ("ra", "dec"), ids="t")
    gap = Catalogue(Path("c.csv"), {**catalogue.columns, "g": np.array(["a", None], object)})
    with pytest.raises(ConfigError, match="expected an id in every row of g, got none in 1"):
        read_objects(gap, ("ra", "dec"), ids="g")
