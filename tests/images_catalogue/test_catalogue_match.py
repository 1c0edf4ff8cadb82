"""Rows for images: ids as text, great circles against the haversine written out, real alerts."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from apercu.errors import ConfigError, ImagesError
from apercu.images import open_images
from apercu.images.catalogue import (
    Catalogue,
    match_by_id,
    match_by_position,
    read_catalogue,
    read_sky_positions,
)
from apercu.images.folder import FolderImages


def make_catalogue(**columns: Any) -> Catalogue:
    arrays = {}
    for name, values in columns.items():
        kind = object if any(isinstance(v, str) or v is None for v in values) else None
        arrays[name] = np.array(values, dtype=kind)
    return Catalogue(Path("c.csv"), arrays)


def split_pairs(*pairs: tuple[float, float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], float)


def haversine(ra: float, dec: float, other_ra: float, other_dec: float) -> float:
    """Degrees between two places, one pair at a time."""
    a, b = radians(dec), radians(other_dec)
    half = sin((b - a) / 2) ** 2 + cos(a) * cos(b) * sin(radians(other_ra - ra) / 2) ** 2
    return 2 * asin(min(1.0, sqrt(half))) * 180 / 3.141592653589793


@pytest.mark.parametrize(
    ("ids", "names"),
    [
        ([7, 123], ("g/123.fits", "7.fits.gz", "8.png")),
        (["7", "123"], ("123", "7.npy", "8")),
        ([7.0, 123.0], ("a/b/123.jpg", "7", "8.0")),
        (["7.0", "123.00"], ("123.fits", "7", "9")),
        ([" 7", "123"], ("123.FITS", "7", "")),
    ],
)
def test_ids_are_compared_as_text(ids: list[Any], names: tuple[str, ...]) -> None:
    match = match_by_id(names, make_catalogue(id=ids), "id")
    assert match.rows.tolist() == [1, 0, -1] and match.unused == 0


def test_dots_that_belong_to_a_name_stay() -> None:
    match = match_by_id(
        ("J0042.7+41.fits",), make_catalogue(name=["J0042", "J0042.7+41", None]), "name"
    )
    assert match == (np.array([1]), 2)


def test_long_ids_keep_their_digits() -> None:
    first, second = 2481397253415010029, 2481397253415010030
    match = match_by_id((str(second), str(first)), make_catalogue(id=[first, second]), "id")
    assert match.rows.tolist() == [1, 0]
    with pytest.raises(ConfigError, match="id is stored as floats, which lose digits of long ids"):
        match_by_id((str(first),), make_catalogue(id=[float(first), float(second)]), "id")


def test_invalid_ids_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected each id once, got 5 in rows 1 and 3; choose"):
        match_by_id(("5",), make_catalogue(id=[5, 6, 5]), "id")
    with pytest.raises(ConfigError, match="no column candid, got id"):
        match_by_id(("5",), make_catalogue(id=[5]), "candid")
    message = r"c\.csv: matched 1 of 3 images \(by id\); are ids like the images' names, such as 5"
    with pytest.raises(ImagesError, match=message):
        match_by_id(("5", "7", "8"), make_catalogue(id=[5, None, 6]), "id")
    match = match_by_id(("5", "7"), make_catalogue(id=["5", None, "6"]), "id")
    assert match.rows.tolist() == [0, -1]


ANGLES = st.tuples(st.floats(0, 360), st.one_of(st.floats(-90, 90), st.floats(89.9, 90)))


@given(
    st.lists(ANGLES, min_size=1, max_size=12),
    st.lists(st.tuples(ANGLES, st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=8),
    st.sampled_from([1.0, 3600.0, 7200.0]),
)
def test_the_nearest_row_on_the_great_circle(rows: Any, images: Any, radius: float) -> None:
    positions = [position for position, _, _ in images]
    pairs = zip(rows, images, strict=False)
    near = [(ra + a, max(-90.0, min(90.0, dec + d))) for (ra, dec), (_, a, d) in pairs]
    positions += [(ra % 360, dec) for ra, dec in near]
    table = make_catalogue(ra=[ra for ra, _ in rows], dec=[dec for _, dec in rows])
    distances = [[3600 * haversine(*position, *row) for row in rows] for position in positions]
    nearest = [min(line) for line in distances]
    if any(abs(best - radius) < 1e-4 for best in nearest):
        return
    matched = sum(best < radius for best in nearest)
    if 2 * matched < len(positions):
        with pytest.raises(ImagesError, match=f"matched {matched} of {len(positions)} images"):
            match_by_position(*split_pairs(*positions), table, radius)
        return
    match = match_by_position(*split_pairs(*positions), table, radius)
    for best, line, row in zip(nearest, distances, match.rows.tolist(), strict=True):
        assert (row >= 0) == (best < radius)
        assert row < 0 or line[row] == pytest.approx(best, abs=1e-4)


def test_across_zero_and_over_the_poles() -> None:
    second = 1 / 3600
    table = make_catalogue(ra=[359.9999, 10.0, 0.0], dec=[0.0, 90 - second, -90.0])
    positions = split_pairs((0.0001, 0), (190.0, 90 - second), (77.0, -90 + second))
    assert match_by_position(*positions, table, 2.1).rows.tolist() == [0, 1, 2]
    with pytest.raises(ImagesError, match=r"matched 1 of 3 images \(by position within 0.8 arcsec"):
        match_by_position(*positions, table, 0.8)


def test_the_nearest_of_two_rows_and_invalid_positions() -> None:
    table = make_catalogue(
        ra=[10.0, 10.001, -999.0, None], dec=[5.0, 5.0, 5.0, 1.0], RA2=[1, 1, 1, 1]
    )
    positions = split_pairs((10.0008, 5), (np.nan, np.nan), (10.0002, 5))
    match = match_by_position(*positions, table, 10.0)
    assert match.rows.tolist() == [1, -1, 0] and match.unused == 2
    with pytest.raises(ImagesError, match="1 images have no position; is the radius right"):
        match_by_position(*positions, table, 0.01)
    with pytest.raises(ConfigError, match="radius: expected arcseconds above 0, got 0"):
        match_by_position(*positions, table, 0.0)
    with pytest.raises(ConfigError, match="no column RA, got ra, dec, RA2; did you mean"):
        match_by_position(*positions, table, 1.0, ("RA", "dec"))


def test_ninety_nine_degrees_are_a_valid_position() -> None:
    table = make_catalogue(ra=[99.0], dec=[-9.0])
    assert match_by_position(*split_pairs((99, -9)), table, 1.0).rows.tolist() == [0]


def test_real_alerts_by_candid(apercu_data: Path) -> None:
    folder = apercu_data / "data" / "ztf"
    table = read_catalogue(folder / "alerts.parquet")
    stack = open_images(folder / "alerts.npz")
    match = match_by_id(stack.names, table, "candid")
    assert match.rows.tolist() == list(range(1284)) and match.unused == 0


def test_real_stamps_by_position(apercu_data: Path) -> None:
    from astropy.io import fits

    folder = apercu_data / "data" / "ztf"
    table, stamps = read_catalogue(folder / "alerts.parquet"), open_images(folder / "fits")
    assert isinstance(stamps, FolderImages)
    match = match_by_position(*read_sky_positions(stamps), table, 1.5)
    sky = np.stack([table.numbers("ra", missing=()), table.numbers("dec", missing=())], axis=1)
    headers = [fits.getheader(folder / "fits" / name) for name in stamps.names]
    assert (match.rows >= 0).all() and len(headers) == 60
    alone = 0
    for row, header in zip(match.rows.tolist(), headers, strict=True):
        assert sky[row] == pytest.approx((header["RA_OBJ"], header["DEC_OBJ"]), abs=1.5 / 3600)
        if (np.abs(sky - sky[row]).max(axis=1) < 0.01).sum() == 1:  # some alerts share a place
            alone += 1
            assert row == header["ROW"]
    assert alone > 20


def test_stamps_are_matched_by_ids_that_are_no_names_of_files() -> None:
    """`apercu cutouts` writes `NGC_1300_b.fits` for the id `NGC 1300/b`."""
    catalogue = make_catalogue(id=["NGC 1300/b", "M 31", "M_31", "x y", "x/y"])
    names = ("s/NGC_1300_b.fits", "M_31.fits", "x_y.fits")
    assert match_by_id(names, catalogue, "id").rows.tolist() == [0, 2, -1]
