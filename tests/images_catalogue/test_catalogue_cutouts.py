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


def coordinates(ra: float = 10.0, dec: float = 60.0, **cards: Any) -> fits.Header:
    """A gnomonic projection, turned by 30 degrees, whose reference is pixel (30, 20) from 0."""
    scale, turn = 1 / 3600, np.deg2rad(30)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"})
    header.update({"CRPIX1": 31, "CRPIX2": 21, "CRVAL1": ra, "CRVAL2": dec})
    header.update({"CD1_1": -scale * np.cos(turn), "CD1_2": scale * np.sin(turn)})
    header.update({"CD2_1": scale * np.sin(turn), "CD2_2": scale * np.cos(turn), **cards})
    return header


def frame(path: Path, *bands: tuple[str, NDArray[Any], fits.Header | None]) -> Path:
    hdus = [fits.ImageHDU(pixels, header, name=name) for name, pixels, header in bands]
    fits.HDUList([fits.PrimaryHDU(), *hdus]).writeto(path)
    return path


def cut(
    path: list[Path], objects: CatalogueObjects, size: int
) -> tuple[list[CutoutStatus], dict[int, Any]]:
    kept: dict[int, bytes] = {}
    fates = cut_stamps(path, objects, size, kept.__setitem__)
    return fates, {index: fits.open(io.BytesIO(data)) for index, data in kept.items()}


def at(*places: tuple[float, float], in_pixels: bool = True) -> CatalogueObjects:
    ids = tuple(f"o{number}" for number in range(len(places)))
    return CatalogueObjects(ids, np.array(places, dtype=float), in_pixels)


def by_slice(x: int, y: int, size: int) -> NDArray[np.float32]:
    """Pixel by pixel."""
    half = size // 2
    found = np.full((size, size), np.nan, np.float32)
    for row in range(size):
        for column in range(size):
            j, i = y - half + row, x - half + column
            if 0 <= j < HEIGHT and 0 <= i < WIDTH:
                found[row, column] = PIXELS[j, i]
    return found


def test_pixels_are_those_of_a_slice(tmp_path: Path) -> None:
    path = frame(tmp_path / "f.fits", ("A", PIXELS, None), ("B", PIXELS + 0.5, None))
    places = [(30.0, 20.0), (0.2, 20.4), (57.6, 38.0)]
    fates, stamps = cut([path], at(*places), 7)
    assert fates == [CutoutStatus.CUT] * 3
    for index, (x, y) in enumerate([(30, 20), (0, 20), (58, 38)]):
        stamp = stamps[index]
        assert [hdu.header["EXTNAME"] for hdu in stamp] == ["A", "B"]
        assert stamp[0].header["OBJID"] == f"o{index}" and "RA" not in stamp[0].header
        assert stamp[0].header["BITPIX"] == stamp[1].header["BITPIX"] == -32
        np.testing.assert_array_equal(stamp[0].data, by_slice(x, y, 7))
        np.testing.assert_array_equal(stamp[1].data, by_slice(x, y, 7) + np.float32(0.5))


def test_places_on_the_sky_are_found_and_kept(tmp_path: Path) -> None:
    header = coordinates()
    path = frame(tmp_path / "f.fits", ("A", PIXELS, header), ("B", PIXELS, None))
    wanted = [(30, 20), (12, 31), (2, 2)]
    places = [tuple(map(float, WCS(header).all_pix2world(x, y, 0))) for x, y in wanted]
    fates, stamps = cut([path], at(*places, in_pixels=False), 9)
    assert fates == [CutoutStatus.CUT] * 3
    for index, (x, y) in enumerate(wanted):
        for hdu in stamps[index]:
            np.testing.assert_array_equal(hdu.data, by_slice(x, y, 9))
        head = stamps[index][0].header
        assert (head["RA"], head["DEC"]) == pytest.approx(places[index], abs=1e-10)
        for column, row in ((4, 4), (0, 0), (8, 3)):
            own = WCS(head).all_pix2world(column, row, 0)
            np.testing.assert_allclose(
                own, WCS(header).all_pix2world(x - 4 + column, y - 4 + row, 0), atol=1e-9
            )


def test_pixels_tell_the_place_where_there_are_coordinates(tmp_path: Path) -> None:
    path = frame(tmp_path / "f.fits", ("A", PIXELS, coordinates()))
    _, stamps = cut([path], at((30.0, 20.0)), 5)
    head = stamps[0][0].header
    assert (head["RA"], head["DEC"]) == pytest.approx((10.0, 60.0), abs=1e-9)


def test_distortions_are_kept(tmp_path: Path) -> None:
    header = coordinates(A_ORDER=2, B_ORDER=2, A_2_0=1e-3, B_0_2=-2e-3)
    header.update({"CTYPE1": "RA---TAN-SIP", "CTYPE2": "DEC--TAN-SIP"})
    path = frame(tmp_path / "f.fits", ("A", PIXELS, header))
    whole = WCS(header)
    place = tuple(map(float, whole.all_pix2world(50, 10, 0)))
    _, stamps = cut([path], at(place, in_pixels=False), 7)
    np.testing.assert_array_equal(stamps[0][0].data, by_slice(50, 10, 7))
    own = WCS(stamps[0][0].header).all_pix2world(6, 1, 0)
    np.testing.assert_allclose(own, whole.all_pix2world(53, 8, 0), atol=1e-9)
    assert abs(whole.all_pix2world(53, 8, 0)[1] - whole.wcs_pix2world(53, 8, 0)[1]) > 1e-6


def test_each_band_is_cut_by_its_own_coordinates(tmp_path: Path) -> None:
    moved = coordinates()
    moved["CRPIX1"] += 3
    path = frame(tmp_path / "f.fits", ("A", PIXELS, coordinates()), ("B", PIXELS, moved))
    _, stamps = cut([path], at((10.0, 60.0), in_pixels=False), 5)
    np.testing.assert_array_equal(stamps[0][0].data, by_slice(30, 20, 5))
    np.testing.assert_array_equal(stamps[0][1].data, by_slice(33, 20, 5))


def test_a_band_that_shows_another_part_of_the_sky_is_nan(tmp_path: Path) -> None:
    near, far = coordinates(), coordinates(ra=200.0)
    path = frame(tmp_path / "f.fits", ("A", PIXELS, near), ("B", PIXELS, far))
    fates, stamps = cut([path], at((10.0, 60.0), in_pixels=False), 5)
    assert fates == [CutoutStatus.CUT] and np.isnan(stamps[0][1].data).all()
    assert stamps[0][1].data.shape == (5, 5) and not np.isnan(stamps[0][0].data).any()


def test_what_is_left_out_and_why(tmp_path: Path) -> None:
    holed = PIXELS.copy()
    holed[:, 20:] = np.nan
    path = frame(tmp_path / "f.fits", ("A", holed, None))
    places = [(10.0, 20.0), (19.0, 20.0), (20.0, 20.0), (60.0, 5.0), (-0.6, 5.0), (np.nan, 5.0)]
    fates, stamps = cut([path], at(*places), 5)
    wanted = [
        CutoutStatus.CUT,
        CutoutStatus.CUT,
        CutoutStatus.MISSING,
        CutoutStatus.OUTSIDE,
        CutoutStatus.OUTSIDE,
        CutoutStatus.UNKNOWN_POSITION,
    ]
    assert fates == wanted and set(stamps) == {0, 1}
    assert np.isnan(stamps[1][0].data).sum() == 10


def test_several_frames_and_the_first_that_shows_enough(tmp_path: Path) -> None:
    holed = np.full_like(PIXELS, np.nan)
    one = frame(tmp_path / "1.fits", ("A", holed, coordinates()))
    two = frame(tmp_path / "2.fits", ("A", PIXELS, coordinates()))
    three = frame(tmp_path / "3.fits", ("A", PIXELS + 9000, coordinates(ra=200.0)))
    sky = at((10.0, 60.0), (200.0, 60.0), (100.0, 0.0), in_pixels=False)
    fates, stamps = cut([one, two, three, two], sky, 5)
    assert fates == [CutoutStatus.CUT, CutoutStatus.CUT, CutoutStatus.OUTSIDE]
    np.testing.assert_array_equal(stamps[0][0].data, by_slice(30, 20, 5))
    np.testing.assert_array_equal(stamps[1][0].data, by_slice(30, 20, 5) + 9000)
    with pytest.raises(ConfigError, match="x and y: expected one frame, got 2; give right asc"):
        cut([one, two], at((1.0, 1.0)), 5)


def test_frames_that_cannot_be(tmp_path: Path) -> None:
    path = frame(tmp_path / "f.fits", ("A", PIXELS, None))
    with pytest.raises(
        ImagesError, match=r"f\.fits: has no celestial coordinates; say where .* --x"
    ):
        cut([path], at((1.0, 1.0), in_pixels=False), 5)
    with pytest.raises(ImageError, match=r"gone\.fits: cannot be read"):
        cut([tmp_path / "gone.fits"], at((1.0, 1.0)), 5)


def table(**columns: Any) -> Catalogue:
    return Catalogue(Path("c.csv"), {name: np.array(v) for name, v in columns.items()})


def test_objects_of_a_catalogue() -> None:
    known = table(
        ra=[99.0, 400.0], dec=[1.0, 1.0], X=[1.0, 5.5], Y=[2.0, -1.0], id=[7, 8], t=[3, 3]
    )
    sky = read_objects(known, ("ra", "dec"), ids="id")
    assert sky.ids == ("7", "8")
    np.testing.assert_array_equal(sky.positions, [[99, 1], [np.nan, np.nan]])
    pixels = read_objects(known, ("X", "Y"), in_pixels=True)
    assert pixels.ids == ("0", "1") and pixels.positions.tolist() == [[0, 1], [4.5, -2]]
    with pytest.raises(ConfigError, match="expected each t once, got 3 in rows 1 and 2"):
        read_objects(known, ("ra", "dec"), ids="t")
    gap = Catalogue(Path("c.csv"), {**known.columns, "g": np.array(["a", None], object)})
    with pytest.raises(ConfigError, match="expected an id in every row of g, got none in 1"):
        read_objects(gap, ("ra", "dec"), ids="g")
