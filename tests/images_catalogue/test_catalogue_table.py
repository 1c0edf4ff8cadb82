"""Catalogues from CSV, Parquet and FITS tables: values, what is missing, and what is refused."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import MaskedColumn, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apercu.errors import ConfigError, ImageError, ImagesError, InputError
from apercu.images.catalogue import Catalogue, read_catalogue

LONG = 2481397253415010029


def write_csv(path: Path) -> Path:
    lines = ("candid,mag, kind ,flag", f"{LONG},17.5,star,True", "2,,  ,False", "3,99,galaxy,")
    (path / "c.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path / "c.csv"


def write_parquet(path: Path) -> Path:
    columns: dict[str, Any] = {
        "candid": pa.array([LONG, 2, 3]),
        "mag": pa.array([17.5, None, 99.0]),
        "kind": pa.array(["star", None, "galaxy"]).dictionary_encode(),
        "flag": pa.array([True, False, None]),
        "cutout": pa.array([b"a", b"b", b"c"]),
        "history": pa.array([[1.0], [], None]),
    }
    pq.write_table(pa.table(columns), path / "c.parquet")
    return path / "c.parquet"


def write_fits(path: Path) -> Path:
    columns = {
        "candid": np.array([LONG, 2, 3]),
        "mag": np.array([17.5, np.nan, 99]),
        "kind": np.array(["star", "", "galaxy"]),
        "flag": MaskedColumn([1, 0, 1], mask=[False, False, True]),
        "many": np.zeros((3, 2)),
    }
    Table(columns).write(path / "c.fits")
    return path / "c.fits"


@pytest.mark.parametrize("make", [write_csv, write_parquet, write_fits])
def test_values_and_what_is_missing(make: Any, tmp_path: Path) -> None:
    catalogue = read_catalogue(make(tmp_path))
    assert isinstance(catalogue, Catalogue) and len(catalogue) == 3
    assert set(catalogue.columns) == {"candid", "mag", "kind", "flag"}
    assert [int(value) for value in catalogue.column("candid")] == [LONG, 2, 3]
    np.testing.assert_array_equal(catalogue.numbers("mag"), [17.5, np.nan, np.nan])
    np.testing.assert_array_equal(catalogue.numbers("mag", missing=()), [17.5, np.nan, 99])
    assert catalogue.column("kind").tolist() == ["star", None, "galaxy"]
    flags = catalogue.column("flag").tolist()
    assert flags[2] is None and str(flags[0]) in ("True", "1")


def test_missing_value_numbers_become_nan(tmp_path: Path) -> None:
    written = [
        "99",
        "99.0",
        "-99",
        "-999.0",
        "-9999",
        "nan",
        "NULL",
        "n/a",
        "",
        "99.99",
        "999",
        "9",
    ]
    path = tmp_path / "a.csv"
    path.write_text("x,y\n" + "\n".join(f"{text},1" for text in written))
    numbers = read_catalogue(path).numbers("x")
    assert np.isnan(numbers[:9]).all() and numbers[9:].tolist() == [99.99, 999, 9]
    pq.write_table(
        pa.table({"x": pa.array([99, None, -999, 5], pa.int32())}), tmp_path / "a.parquet"
    )
    whole = read_catalogue(tmp_path / "a.parquet")
    np.testing.assert_array_equal(whole.numbers("x"), [np.nan, np.nan, np.nan, 5])


def test_infinite_numbers_are_missing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\ninf,1\n-Infinity,1\n1e999,1\n7,1\n")
    floats = pa.array([np.inf, -np.inf, None, 7.0], pa.float32())
    pq.write_table(pa.table({"x": floats}), tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        for missing in ((99.0,), ()):
            numbers = read_catalogue(tmp_path / name).numbers("x", missing=missing)
            np.testing.assert_array_equal(numbers, [np.nan, np.nan, np.nan, 7])


def test_missing_columns_and_columns_of_text_are_refused(tmp_path: Path) -> None:
    catalogue = read_catalogue(write_csv(tmp_path))
    with pytest.raises(
        ConfigError, match=r"c\.csv: no column candd, got candid, mag, kind, flag; did"
    ):
        catalogue.column("candd")
    with pytest.raises(ConfigError, match="expected numbers in column kind, got star in row 1"):
        catalogue.numbers("kind")


def test_scaled_and_gzip_ed_fits_tables(tmp_path: Path) -> None:
    column = fits.Column("x", "I", array=np.array([1, 2, -7]))
    whole = fits.Column("y", "J", array=np.array([4, -7, 6]), null=-7)
    fits.BinTableHDU.from_columns([column, whole]).writeto(tmp_path / "a.fits")
    fits.setval(tmp_path / "a.fits", "TSCAL1", value=0.5, ext=1)
    fits.setval(tmp_path / "a.fits", "TZERO1", value=10.0, ext=1)
    (tmp_path / "a.fits.gz").write_bytes(gzip.compress((tmp_path / "a.fits").read_bytes()))
    for name in ("a.fits", "a.fits.gz"):
        catalogue = read_catalogue(tmp_path / name)
        np.testing.assert_array_equal(catalogue.numbers("x"), [10.5, 11, 6.5])
        assert catalogue.column("y").tolist() == [4, None, 6]


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.txt", b"", r"expected a catalogue that ends in \.csv \.parquet \.fits"),
        ("a.csv", b"", "a catalogue without rows"),
        ("a.csv", b"a,b\n", "a catalogue without rows"),
        ("a.csv", b"a,b\n1,2\n3\n", "line 3: expected 2 cells like the header, got 1"),
        ("a.csv", b"a,b\n1,2,3\n", "line 2: expected 2 cells like the header, got 3"),
        ("a.csv", b"a,a\n1,2\n", "expected each column once, got a twice"),
        ("a.csv", b"\xffa,b\n", "cannot be read as a CSV table in UTF-8"),
        ("a.parquet", b"PAR1", "not a Parquet file that can be read"),
        ("a.fits", b"SIMPLE  = nothing", "damaged or cut short"),
        ("a.fits", b"text", "damaged or cut short"),
        ("a.fits.gz", b"\x1f\x8bxx", "damaged or cut short"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises((ImagesError, ImageError), match=message) as caught:
        read_catalogue(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_missing_files_and_files_without_tables_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ImagesError, match=r"gone\.csv: no such catalogue"):
        read_catalogue(tmp_path / "gone.csv")
    fits.PrimaryHDU(np.ones((4, 4))).writeto(tmp_path / "a.fits")
    with pytest.raises(ImagesError, match="a FITS file without tables"):
        read_catalogue(tmp_path / "a.fits")


def test_mutated_bytes_are_read_or_refused(tmp_path_factory: Any) -> None:
    outcomes: set[bool] = set()

    @settings(
        max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(
        st.sampled_from([write_csv, write_parquet, write_fits]),
        st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
        st.floats(0.3, 1),
    )
    def try_one(make: Any, changes: Any, kept: float) -> None:
        path = make(tmp_path_factory.mktemp("mutated"))
        data = bytearray(path.read_bytes())
        for position, value in changes:
            data[int(position * (len(data) - 1))] = value
        path.write_bytes(data[: int(len(data) * min(1.0, 1.5 * kept))])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                assert len(read_catalogue(path)) >= 1
            except InputError as error:
                assert "\n" not in str(error)
                outcomes.add(False)
            else:
                outcomes.add(True)

    try_one()
    assert outcomes == {True, False}


def test_catalogues_of_sextractor(tmp_path: Path) -> None:
    parts: list[Any] = [fits.PrimaryHDU()]
    for start in (1, 3):
        header = fits.Column("Field Header Card", "80A", array=np.array(["SIMPLE"]))
        numbers = fits.Column("NUMBER", "J", array=np.array([start, start + 1]))
        parts.append(fits.BinTableHDU.from_columns([header], name="LDAC_IMHEAD"))
        parts.append(fits.BinTableHDU.from_columns([numbers], name="LDAC_OBJECTS"))
    fits.HDUList(parts).writeto(tmp_path / "ldac.fits")
    fits.HDUList(parts).writeto(tmp_path / "ldac.cat")
    for name in ("ldac.fits", "ldac.cat"):
        assert read_catalogue(tmp_path / name).column("NUMBER").tolist() == [1, 2, 3, 4]
    (tmp_path / "text.cat").write_text(
        "#   1 NUMBER    Running object number\n#   2 MAG_APER  Magnitudes  [mag]\n"
        "#   4 ALPHA_J2000  [deg]\n  1 19.5 20.1 150.5\n  2 18.5 19.1 151.5\n"
    )
    catalogue = read_catalogue(tmp_path / "text.cat")
    assert catalogue.numbers("ALPHA_J2000").tolist() == [150.5, 151.5]
    assert catalogue.numbers("NUMBER").tolist() == [1, 2]
    (tmp_path / "bad.cat").write_text("no table")
    with pytest.raises(ImagesError, match="expected a FITS table, or a header such as"):
        read_catalogue(tmp_path / "bad.cat")
