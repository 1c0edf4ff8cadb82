"""Overlays of DICOM images as secondary captures: valid, referring, and without the patient."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from apercu.cli.root import app
from apercu.images.formats.dicom import read_dicom_reference
from apercu.images.reader import read_picture

SECRETS = (b"CompressedSamples", b"1CT1", b"JFK IMAGING")
"""Who and where pydicom's small CT image is of, as it says itself."""


@pytest.fixture(scope="module")
def film() -> Path:
    return Path(str(get_testdata_file("CT_small.dcm")))


@pytest.fixture(scope="module")
def written(film: Path, tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("maps")
    command = ["explain", str(tiny_run), str(film), "--target", "0", "--out", str(out)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not any(secret.decode() in done.output for secret in SECRETS)
    yield out


def capture_in(folder: Path) -> Path:
    (record,) = json.loads((folder / "explain.json").read_text())["images"]
    return folder / str(record["answers"][0]["files"]["capture"])


def test_the_capture_refers_to_its_source_and_shows_the_overlay(film: Path, written: Path) -> None:
    source, capture = pydicom.dcmread(film), pydicom.dcmread(capture_in(written))
    (reference,) = capture.SourceImageSequence
    assert reference.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == source.SOPClassUID
    assert capture.StudyInstanceUID == source.StudyInstanceUID
    assert capture.SOPInstanceUID != source.SOPInstanceUID
    assert capture.SeriesInstanceUID != source.SeriesInstanceUID
    overlay = read_picture(capture_in(written).with_suffix(".png"))
    np.testing.assert_allclose(read_picture(capture_in(written)), overlay, atol=1e-6)


def test_no_file_holds_anything_of_the_patient(film: Path, written: Path) -> None:
    content = film.read_bytes()
    assert all(secret in content for secret in SECRETS)
    files = [path for path in written.rglob("*") if path.is_file()]
    assert len(files) > 4
    for path in files:
        assert not any(secret in path.read_bytes() for secret in SECRETS), path


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="needs dicom3tools' dciodvfy")
def test_the_capture_validates(written: Path) -> None:
    command = ["dciodvfy", str(capture_in(written))]
    report = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    assert "SCImage" in report or "Secondary Capture" in report, report
    assert not [line for line in report.splitlines() if line.startswith("Error")], report


def test_a_frame_is_referred_to_by_its_number(tmp_path: Path, film: Path) -> None:
    several = Path(str(get_testdata_file("SC_rgb_rle_2frame.dcm")))
    second, only = read_dicom_reference(several, 1), read_dicom_reference(film)
    assert second is not None and second.frame == 1
    assert only is not None and only.frame is None
    plain = tmp_path / "a.png"
    plain.write_bytes(b"not read")
    assert read_dicom_reference(plain) is None
