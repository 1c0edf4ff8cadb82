"""Sky positions of images, by known projections and by cards."""

from __future__ import annotations

import sys
from math import atan2, cos, degrees, hypot, radians, sin
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits

from apercu.errors import ConfigError, ImagesError, MissingExtraError
from apercu.images import open_images
from apercu.images.catalogue import LabelledImages, read_sky_positions
from apercu.images.catalogue.sky import pixel_to_sky, read_celestial_wcs, sky_to_pixels
from apercu.images.folder import FolderImages
from apercu.images.source import ChosenImages
from apercu.pretraining.inputs import CatalogueJoin

SIDE = 21


def make_tan_header(ra: float, dec: float, scale: float = 1 / 3600, **cards: Any) -> fits.Header:
    """A gnomonic projection whose reference is pixel (11, 8) as FITS counts."""
    header = fits.Header()
    cards_of_wcs = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRPIX1": 11, "CRPIX2": 8}
    cards_of_wcs |= {"CRVAL1": ra, "CRVAL2": dec, "CDELT1": -scale, "CDELT2": scale}
    cards_of_wcs |= {"RADESYS": "ICRS"}
    cards_of_wcs |= {"CUNIT1": "deg", "CUNIT2": "deg"}
    header.update(cards_of_wcs | cards)
    return header


def gnomonic(ra: float, dec: float, east: float, north: float) -> tuple[float, float]:
    """Where a step in the tangent plane (degrees) leads: Calabretta & Greisen 2002, section 5.1."""
    x, y = radians(east), radians(north)
    rho = hypot(x, y)
    if not rho:
        return ra, dec
    c, d = atan2(rho, 1), radians(dec)
    top = atan2(x * sin(c), rho * cos(d) * cos(c) - y * sin(d) * sin(c))
    height = cos(c) * sin(d) + y * sin(c) * cos(d) / rho
    return (ra + degrees(top)) % 360, degrees(atan2(height, (1 - height**2) ** 0.5))


@pytest.mark.parametrize(("ra", "dec"), [(0.001, 10.0), (150.0, -60.0), (10.0, 89.9)])
def test_pixels_and_positions_of_a_tan_projection(ra: float, dec: float) -> None:
    wcs = read_celestial_wcs(make_tan_header(ra, dec, scale=1 / 60))
    assert wcs is not None
    for x, y in ((10, 7), (0, 0), (20, 3)):
        expected = gnomonic(ra, dec, -(x - 10) / 60, (y - 7) / 60)
        assert pixel_to_sky(wcs, float(x), float(y)) == pytest.approx(expected, abs=1e-9)
        back = sky_to_pixels(wcs, np.array([expected[0]]), np.array([expected[1]]), (SIDE, SIDE))
        assert (back[0][0], back[1][0]) == pytest.approx((x, y), abs=1e-6)


def test_positions_behind_the_projection_are_nan() -> None:
    wcs = read_celestial_wcs(make_tan_header(10.0, 20.0))
    ra, dec = np.array([190.0, np.nan, 10.0, 12.5]), np.array([-20.0, 0.0, 20.0, 20.0])
    x, y = sky_to_pixels(wcs, ra, dec, (SIDE, SIDE))
    assert np.isnan(x).tolist() == np.isnan(y).tolist() == [True, True, False, True]


def test_other_systems_become_icrs() -> None:
    header = make_tan_header(0.0, 0.0, CTYPE1="GLON-TAN", CTYPE2="GLAT-TAN")
    position = pixel_to_sky(read_celestial_wcs(header), 10.0, 7.0)
    assert position == pytest.approx((266.40499, -28.93617), abs=1e-4)  # the centre of the Galaxy


def write_stamp(path: Path, header: fits.Header | None = None, primary: Any = None) -> None:
    first = fits.PrimaryHDU()
    first.header.update(primary or {})
    fits.HDUList([first, fits.ImageHDU(np.ones((SIDE, SIDE)), header)]).writeto(path)


def open_folder(path: Path) -> FolderImages:
    source = open_images(path, channels=1)
    assert isinstance(source, FolderImages)
    return source


def test_the_centre_by_coordinates_else_by_cards(tmp_path: Path) -> None:
    write_stamp(tmp_path / "a.fits", make_tan_header(30.0, 40.0), {"RA": 1.0, "DEC": 2.0})
    write_stamp(tmp_path / "b.fits", None, {"RA": 1.0, "DEC": 2.0, "RA_OBJ": 3, "DEC_OBJ": -4.5})
    write_stamp(tmp_path / "c.fits", fits.Header({"RA": 7.0, "DEC": 8.0}), {"RA": 1.0, "DEC": 2.0})
    write_stamp(tmp_path / "d.fits", None, {"RA": "12:30:00", "DEC": 2.0})
    write_stamp(tmp_path / "e.fits", fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--XXX"}))
    (tmp_path / "f.fits").write_bytes(b"SIMPLE  = damaged")
    np.save(tmp_path / "g.npy", np.zeros((4, 4)))
    progress_calls: list[tuple[int, int]] = []
    positions = read_sky_positions(
        open_folder(tmp_path), progress=lambda done, total: progress_calls.append((done, total))
    )
    centre = gnomonic(30.0, 40.0, 0.0, 3 / 3600)
    expected = [centre, (3, -4.5), (7, 8), *[(np.nan, np.nan)] * 4]
    np.testing.assert_allclose(np.stack(positions, axis=1), expected, rtol=0, atol=1e-9)
    assert progress_calls[-1] == (7, 7) and len(progress_calls) == 7


def test_positions_follow_their_images_when_some_are_left_out(tmp_path: Path) -> None:
    for number, name in enumerate("abcde"):
        write_stamp(tmp_path / f"{name}.fits", None, {"RA": 10.0 * number, "DEC": 1.0})
    whole = open_folder(tmp_path)
    chosen = ChosenImages(whole, (4, 1, 3))
    assert read_sky_positions(chosen).ra.tolist() == [40, 10, 30]
    labelled = LabelledImages(chosen, (0, 2), ("star", "galaxy"))
    assert read_sky_positions(labelled).ra.tolist() == [40, 30]
    again = ChosenImages(labelled, (1,))
    assert read_sky_positions(again).ra.tolist() == [30] and again.names == ("d.fits",)
    (tmp_path / "c.csv").write_text("ra,dec,mag\n30,1,3.5\n40,1,4.5\n")
    joined, unmatched = CatalogueJoin(tmp_path / "c.csv", ("mag",), None, 1.0)(chosen)
    assert joined.source.names == ("e.fits", "d.fits") and unmatched == 1
    np.savez(tmp_path / "s.npz", images=np.zeros((2, 1, 4, 4), np.float32))
    stack = ChosenImages(open_images(tmp_path / "s.npz", channels=1), (1, 0))
    with pytest.raises(
        ImagesError, match=r"s\.npz: expected a folder of FITS files, whose headers hold positions"
    ):
        read_sky_positions(stack)
    with pytest.raises(ConfigError, match="name the column of ids with --id"):
        CatalogueJoin(tmp_path / "c.csv", ("mag",), None, 1.0)(stack)


def test_other_cards(tmp_path: Path) -> None:
    write_stamp(tmp_path / "a.fits", None, {"RA": 1.0, "DEC": 2.0, "OBJRA": 5.0, "OBJDEC": 6.0})
    positions = read_sky_positions(open_folder(tmp_path), (("OBJRA", "OBJDEC"),))
    assert (positions.ra.tolist(), positions.dec.tolist()) == ([5.0], [6.0])


def test_without_astropy_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(tmp_path / "g.npy", np.zeros((4, 4)))
    source = open_folder(tmp_path)
    monkeypatch.setitem(sys.modules, "astropy", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'apercu\[astro\]'"):
        read_sky_positions(source)
