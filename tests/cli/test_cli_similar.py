"""`apercu similar` and `apercu label`: what is printed and written, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Eight pictures in folders of two classes."""
    generator = np.random.default_rng(0)
    for number in range(8):
        folder = tmp_path / "photos" / ("dots", "rings")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path / "photos"


def test_the_nearest_cases_are_printed(apercu, tiny_card: Path, photos: Path, tmp_path) -> None:
    words = ("similar", tiny_card, photos / "dots" / "0.png", "--among", photos, "--count", "3")
    result = apercu(*words, "--out", tmp_path / "out", "--method", "grad_cam")
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].startswith("0.png: ")
    assert lines[1] == "nearest by the whole image:"
    assert all("dots" in line or "rings" in line for line in lines[2:5])
    assert lines[-1] == f"report: {tmp_path / 'out' / 'report.html'}"
    record = json.loads((tmp_path / "out" / "similar.json").read_text())
    assert len(record["by_features"]) == 3
    assert record["region"] == "GradCam(layer=None)"
    assert (tmp_path / "out" / "index" / "cases.safetensors").is_file()


def test_a_run_and_its_classifier(
    apercu, tiny_run: Path, tiny_card: Path, photos, tmp_path
) -> None:
    words = ("similar", tiny_run, photos / "dots" / "0.png", "--among", photos)
    result = apercu(*words, "--classifier", tiny_card, "--out", tmp_path / "out")
    assert result.code == 0, result.err
    assert json.loads((tmp_path / "out" / "similar.json").read_text())["region"].startswith("run ")


@pytest.mark.parametrize(
    ("verb", "extra", "line"),
    [
        ("similar", ("--among", "missing"), "error: missing: no such file or folder of images"),
        ("similar", ("--among", "photos", "--target", "dog"), "error: target: no class is called"),
        ("similar", ("--among", "photos", "--method", "gradcam"), "error: methods: expected some"),
        ("similar", ("--among", "photos", "--count", "0"), "error: Invalid value for '--count'"),
        ("label", ("--images", "missing"), "error: missing: no such file or folder of images"),
        ("label", ("--images", "photos", "--by", "guess"), "error: Invalid value for '--by'"),
        ("label", ("--images", "photos", "--labels", "no.csv"), "error: no.csv: no such table"),
    ],
)
def test_bad_input_is_one_line(
    apercu, monkeypatch, tiny_card: Path, photos: Path, verb: str, extra: tuple[str, ...], line: str
) -> None:
    monkeypatch.chdir(photos.parent)
    image = ("photos/dots/0.png",) if verb == "similar" else ()
    result = apercu(verb, tiny_card, *image, *extra, "--out", "out")
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(line)
    assert not Path("out").exists()


def test_the_list_is_printed_and_written(apercu, tiny_card: Path, photos: Path, tmp_path) -> None:
    (photos / "labels.csv").write_text("file,name\ndots/0.png,dots\n")
    out = tmp_path / "out"
    result = apercu("label", tiny_card, "--images", photos, "--batch", "4", "--out", out)
    assert result.code == 0, result.err
    rows = list(csv.DictReader((out / "next.csv").read_text().splitlines()))
    assert len(rows) == 4
    lines = result.out.splitlines()
    assert lines[-1] == f"4 of 7 images without label, by combined: {out / 'next.csv'}"
    assert lines[0] == f"   1  {rows[0]['file']}: {rows[0]['reason']}"
    assert "dots/0.png" not in {row["file"] for row in rows}


def test_labels_are_not_served_to_strangers(apercu, tiny_run: Path, photos: Path) -> None:
    result = apercu("serve", tiny_run, "--label", photos, "--host", "0.0.0.0")
    assert result.code == 2
    assert "labels are written from this machine only" in result.err
