"""`apercu cutouts`: a folder of stamps that other verbs read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from apercu.errors import ConfigError, ImagesError
from apercu.images import open_images
from apercu.images.catalogue.cutouts import write_stamps
from apercu.images.folder import FolderImages
from apercu.learning.labels import read_label_rows
from apercu.pretraining.inputs import InputOptions, choose_input


@pytest.fixture
def survey(tmp_path: Path) -> Path:
    pixels = np.arange(40 * 60, dtype=np.float32).reshape(40, 60)
    header = fits.Header({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "RADESYS": "ICRS"})
    header.update({"CRPIX1": 31, "CRPIX2": 21, "CRVAL1": 10.0, "CRVAL2": 0.0})
    header.update({"CDELT1": -0.001, "CDELT2": 0.001})
    bands = [fits.ImageHDU(pixels + 5000 * k, header, name=name) for k, name in enumerate("GR")]
    fits.HDUList([fits.PrimaryHDU(), *bands]).writeto(tmp_path / "frame.fits")
    lines = (
        "name,ra,dec,x,y,kind",
        "a/1,10.0,0.0,31,21,star",
        "b,9.99,0.005,41,26,galaxy",
        "c,10.01,0.0,21,21,",
        "d,50,0,500,1,star",
        "e,,,1,1,star",
    )
    (tmp_path / "objects.csv").write_text("\n".join(lines))
    return tmp_path


def test_the_command(apercu, survey: Path) -> None:
    words = ("cutouts", survey / "frame.fits", "--catalogue", survey / "objects.csv")
    arguments = ("--id", "name", "--label", "kind", "--size", "9", "--out", survey / "stamps")
    result = apercu(*words, *arguments)
    assert result.code == 0, result.err
    assert result.out == (
        f"3 stamps, 2 skipped (1 outside, 1 without a position), 2 of them in labels.csv: "
        f"{survey / 'stamps'}\n"
    )
    stamps = sorted(path.name for path in (survey / "stamps").glob("*.fits"))
    assert stamps == ["a_1.fits", "b.fits", "c.fits"]
    source = open_images(survey / "stamps", channels=2)
    assert isinstance(source, FolderImages) and source.bands == ("G", "R")
    assert [(item.name, item.label) for item in source] == [
        ("a_1.fits", "star"),
        ("b.fits", "galaxy"),
    ]
    centre = 20 * 60 + 30
    assert source[0].picture[:, 4, 4].tolist() == [centre, centre + 5000]
    assert source[1].picture[:, 4, 4].tolist() == [25 * 60 + 40, 25 * 60 + 40 + 5000]


def test_stamps_become_a_classifier_that_keeps_fields_apart(apercu, tmp_path: Path) -> None:
    """The way of the manual, from a frame to a calibrated classifier."""
    pixels = np.random.default_rng(0).normal(100, 5, (60, 120)).astype(np.float32)
    rows = ["name,x,y,kind,field"]
    for number in range(24):
        x, y, wide = 10 + 14 * (number % 8), 10 + 18 * (number // 8), number % 2
        pixels[y - wide : y + wide + 1, x - wide : x + wide + 1] += 200
        kind = ("star", "galaxy")[wide]
        rows.append(f"{number},{x + 1},{y + 1},{kind},field {number // 2}")
    fits.PrimaryHDU(pixels).writeto(tmp_path / "frame.fits")
    (tmp_path / "objects.csv").write_text("\n".join(rows))
    words = ("cutouts", tmp_path / "frame.fits", "--catalogue", tmp_path / "objects.csv")
    columns = ("--id", "name", "--x", "x", "--y", "y", "--label", "kind", "--group", "field")
    stamps, run = tmp_path / "stamps", tmp_path / "run"
    assert apercu(*words, *columns, "--size", "12", "--out", stamps).code == 0
    options = {"channels": 1, "classes": 2, "size": [16, 16], "width": 4}
    stretch = {"low": [0.0], "high": [300.0], "noise": [5.0]}  # stamps hold counts
    network = {
        "source": "apercu.classifiers.small_resnet:SmallResNet",
        "options": options,
        "input": {
            "channels": 1,
            "size": [16, 16],
            "mean": [0.5],
            "std": [0.25],
            "stretch": stretch,
        },
        "classes": ["0", "1"],
    }
    (tmp_path / "network.json").write_text(json.dumps(network))
    words = ("train", "classifier", "--images", stamps, "--group", "field")
    words += ("--network", tmp_path / "network.json", "--steps", "2", "--batch", "8")
    result = apercu(*words, "--out", run)
    assert result.code == 0, result.err
    card = json.loads((run / "card.json").read_text())
    assert card["temperature"] > 0 and card["classes"] == ["galaxy", "star"]
    assert card["input"]["stretch"] == stretch
    units = [row.split(",")[1] for row in (run / "predictions.csv").read_text().splitlines()[1:]]
    assert all(units.count(unit) == 2 for unit in units)  # both objects of a field
    with pytest.raises(ImagesError, match=r"the first: .*0\.fits: expected 3 bands, .* got 1"):
        choose_input(open_images(stamps, channels=3), InputOptions(channels=3))


def test_pixels_count_from_one(apercu, survey: Path) -> None:
    words = ("cutouts", survey / "frame.fits", "--catalogue", survey / "objects.csv")
    result = apercu(*words, "--x", "x", "--y", "y", "--size", "3", "--out", survey / "stamps")
    assert result.code == 0, result.err
    assert result.out.startswith("3 stamps, 2 skipped (1 mostly without pixels, 1 outside): ")
    with fits.open(survey / "stamps" / "0.fits") as stamp:
        assert stamp[0].data[1, 1] == 20 * 60 + 30
        assert stamp[0].header["RA"] == pytest.approx(10.0, abs=1e-9)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (("--x", "x"), "x and y: expected both, without ra and dec"),
        (("--x", "x", "--y", "y", "--ra", "ra"), "x and y: expected both, without ra"),
        (("--ra", "rra"), "no column rra, got name, ra, dec, x, y, kind; did you mean ra?"),
        (("--label", "knd"), "no column knd, got name, ra, dec, x, y, kind; did you mean kind?"),
        (("--id", "kind"), "expected each kind once, got star in rows 1 and 4"),
        (
            ("--ra", "x", "--dec", "y"),
            "0 stamps, 5 skipped (4 outside, 1 without a position); check",
        ),
        (("--size", "1"), "Invalid value for '--size'"),
    ],
)
def test_what_cannot_be(apercu, survey: Path, words: tuple[str, ...], line: str) -> None:
    result = apercu(
        *("cutouts", survey / "frame.fits", "--catalogue", survey / "objects.csv"),
        *("--out", survey / "stamps", *words),
    )
    assert result.code == 2 and line in result.err and result.err.count("\n") == 1
    assert not list((survey / "stamps").glob("*.fits"))


def test_labels_of_another_time_are_not_mixed_in(apercu, survey: Path) -> None:
    words = ("cutouts", survey / "frame.fits", "--catalogue", survey / "objects.csv")
    assert apercu(*words, "--label", "kind", "--size", "5", "--out", survey / "s").code == 0
    result = apercu(*words, "--size", "5", "--out", survey / "s")
    assert result.code == 2 and "has a labels.csv already; give a label, or another" in result.err


def test_python_writes_the_same_and_groups_are_kept(apercu, survey: Path) -> None:
    frame, table = survey / "frame.fits", survey / "objects.csv"
    words = ("cutouts", frame, "--catalogue", table, "--id", "name", "--label", "kind")
    result = apercu(*words, "--group", "x", "--size", "5", "--out", survey / "typed")
    summary = write_stamps(
        [frame], table, survey / "called", 5, ids="name", label="kind", group="x"
    )
    assert result.out == f"{summary}: {survey / 'typed'}\n"
    assert repr(summary) == f"StampSummary('{summary}')"  # a catalogue may have a million objects
    typed, called = sorted((survey / "typed").iterdir()), sorted((survey / "called").iterdir())
    assert [path.read_bytes() for path in typed] == [path.read_bytes() for path in called]
    header, *rows = (survey / "called" / "labels.csv").read_text().splitlines()
    assert header == "file,class,x" and len(rows) == summary.labelled
    labels = read_label_rows(survey / "called" / "labels.csv", group="x")
    assert set(labels.groups) == {row.split(",")[0] for row in rows}
    with pytest.raises(ConfigError, match="group: is written beside the classes"):
        write_stamps([frame], table, survey / "other", group="x")


def test_ids_that_would_be_one_file(apercu, survey: Path) -> None:
    (survey / "two.csv").write_text("id,ra,dec\na/b,10,0\na b,10,0\n")
    words = ("cutouts", survey / "frame.fits", "--catalogue", survey / "two.csv", "--id", "id")
    result = apercu(*words, "--out", survey / "s")
    assert (
        result.code == 2 and "ids: 2 of them give the file a_b.fits; choose another" in result.err
    )


def test_frames_that_cannot_be_used_are_named_and_counted(apercu, survey: Path) -> None:
    whole = (survey / "frame.fits").read_bytes()
    (survey / "bad.fits").write_bytes(whole[:-3000])
    fits.PrimaryHDU(np.ones((9, 9))).writeto(survey / "nowhere.fits")
    with fits.open(survey / "frame.fits") as frame:
        for hdu in frame[1:]:
            hdu.header["CRVAL1"] = 50.0
        frame.writeto(survey / "far.fits")
    named = ("frame.fits", "bad.fits", "nowhere.fits", "far.fits")
    words = (*(survey / name for name in named), "--catalogue", survey / "objects.csv")
    result = apercu("cutouts", *words, "--id", "name", "--size", "9", "--out", survey / "stamps")
    assert result.code == 0, result.err
    assert result.out.startswith(
        "4 stamps, 1 skipped (1 without a position), 2 of 4 frames left out: "
    )
    assert (survey / "stamps" / "d.fits").is_file()
    bad, nowhere = result.err.splitlines()
    assert bad.startswith(f"warning: {survey / 'bad.fits'}: ")
    assert nowhere.startswith(f"warning: {survey / 'nowhere.fits'}: has no celestial coordinates")


def test_without_any_frame_that_can_be_used(apercu, survey: Path) -> None:
    (survey / "bad.fits").write_bytes(b"SIMPLE  = damaged")
    words = ("--catalogue", survey / "objects.csv", "--out", survey / "stamps")
    result = apercu("cutouts", survey / "bad.fits", survey / "gone.fits", *words)
    assert result.code == 2 and result.err.count("\n") == 1
    first = f"none of 2 frames can be used, the first because {survey / 'bad.fits'}: "
    assert first in result.err
    alone = apercu("cutouts", survey / "bad.fits", *words)
    assert alone.code == 2 and alone.err.startswith(f"error: {survey / 'bad.fits'}: ")
    assert not list((survey / "stamps").glob("*.fits"))
