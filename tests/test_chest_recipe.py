"""The chest study: no patient in two parts; what is done to counterparts is what it says."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from apercu.images import open_images

RECIPE = Path(__file__).parents[1] / "recipes" / "chest"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three sources as they come, with films of one grey level per patient."""
    folder = tmp_path / "data"
    kermany = [
        {
            "file": f"{split}/{kind}/{kind}_{n}.jpeg",
            "split": split,
            "class": kind,
            "patient": patient,
        }
        for split in ("train", "test")
        for kind in ("normal", "bacteria", "virus")
        for n in range(8)
        for patient in [f"{kind} {n // 2}" if split == "train" else ""]
    ]
    nih = [
        {"file": f"{n}.jpg", "finding": finding, "patient_id": str(n // 2)}
        for n in range(24)
        for finding in ["pneumonia" if n % 3 else "no_finding"]
    ]
    boxes = [
        {"file": "1.jpg", "source": source, "xmin": "2", "ymin": "2", "xmax": end, "ymax": "12"}
        for source, end in (("nih", "12"), ("rsna", "17"))
    ]
    covid = [{"file": "images/a.jpg", "mask": "masks/a.png", "lung_mask": "lungs/a.png"}]
    for name, rows in {"cxr-kermany": kermany, "cxr-nih": nih, "cxr-covid-seg": covid}.items():
        for row in rows:
            for kind in ("file", "mask", "lung_mask"):
                if kind in row:
                    path = folder / name / row[kind]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    Image.new("L", (20, 20), 255).save(path)
        _table(folder / name / "labels.csv", rows)
    _table(folder / "cxr-nih" / "boxes.csv", boxes)
    return folder


def _table(path: Path, rows: list[dict[str, str]]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def _prepare(data: Path, out: Path) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(RECIPE / "prepare.py"), str(data), str(out)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


def test_no_patient_is_in_two_parts(data: Path, tmp_path: Path) -> None:
    films = tmp_path / "films"
    assert _prepare(data, films).returncode == 0
    places: dict[str, set[str]] = {}
    for part in ("train", "validate", "test"):
        for file in (films / part).glob("*/*"):
            hospital, _, name = file.stem.partition("-")
            kind, _, number = name.rpartition("_")
            places.setdefault(f"{hospital} {kind}{int(number) // 2}", set()).add(part)
    nih = {name: parts for name, parts in places.items() if name.startswith("nih")}
    trained = [parts - {"test"} for name, parts in places.items() if name.startswith("kermany")]
    assert len(trained) == 12 and all(len(parts) == 1 for parts in trained)
    assert len(nih) == 12 and all(len(parts) == 1 for parts in nih.values())
    assert nih["nih 0"] == {"test"}  # film 1 has boxes
    assert sum(1 for _ in films.rglob("kermany-*")) == 48
    boxed = next(iter(open_images(films / "boxes", channels=1)))
    assert boxed.label == "pneumonia" and boxed.boxes is not None and len(boxed.boxes) == 2
    outlined = next(iter(open_images(films / "opacities", channels=1)))
    assert outlined.region is not None and outlined.region.all()


def test_a_prepared_folder_is_not_written_again(data: Path, tmp_path: Path) -> None:
    _prepare(data, tmp_path / "films")
    again = _prepare(data, tmp_path / "films")
    assert again.returncode == 1
    assert again.stderr == f"error: {tmp_path / 'films'} is there already; choose another folder\n"


def test_filters_are_what_their_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import measure

    images = torch.rand(2, 1, 7, 9, generator=torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    result = measure.filter_median(images)
    for row in range(7):
        for column in range(9):
            window = padded[:, 0, row : row + 3, column : column + 3].reshape(2, 9)
            assert result[:, 0, row, column].tolist() == np.median(window, axis=1).tolist()
    moved = measure.shift_by_pixel(images)
    assert torch.equal(moved[:, :, 1:, 1:], images[:, :, :-1, :-1])
    assert torch.equal(moved[:, :, 0, 1:], images[:, :, 0, :-1])
    smooth = torch.linspace(0, 1, 64).expand(1, 1, 64, 64).contiguous()
    assert 0 < (measure.compress_jpeg(smooth) - smooth).abs().max() < 0.03


def test_readers_are_compared_where_both_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import measure

    corners = ("xmin", "ymin", "xmax", "ymax")
    boxes = [("a", "nih", 0, 0, 20, 10), ("a", "rsna", 10, 0, 30, 10), ("b", "nih", 0, 0, 9, 9)]
    _table(
        tmp_path / "boxes.csv",
        [dict(zip(("file", "source", *corners), map(str, box), strict=True)) for box in boxes],
    )
    result = measure.compare_readers(tmp_path / "boxes.csv")
    assert result == {"films_read_twice": 1, "mean_iou": 0.3333}


def test_a_donor_is_moved_onto_the_film(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import donors

    rows, columns = torch.meshgrid(torch.arange(80.0), torch.arange(80.0), indexing="ij")
    film = torch.exp(-((rows - 40) ** 2 + 2 * (columns - 44) ** 2) / 400)[None, None]
    moved = 0.5 * film.roll((6, -5), (2, 3))
    nothing = torch.zeros(1, 80, 80, dtype=torch.bool)
    nothing[:, :8, :8] = True
    aligned, agreement = donors.align(moved, film, nothing)
    before = donors.correlate(film[:, 0], moved[:, 0], torch.ones(1, 80, 80))
    assert before < 0.9 and agreement > 0.99
    exposed = donors.match_exposure(aligned, film, nothing)
    assert (exposed - film).abs().mean() < 0.2 * (moved - film).abs().mean()


def test_controls_are_as_large_as_the_marks_and_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(RECIPE))
    import controls

    regions = torch.zeros(4, 40, 40, dtype=torch.bool)
    regions[0, 4:14, 2:12] = True
    regions[1, 24:34, 2:12] = True
    regions[2, 5:15, 28:38] = True
    regions[3, 10:30, 6:34] = True  # on both sides and in the middle: it has no control
    sites = controls.make_sites(regions, draws=2, seed=0)
    for name in ("mirrored", "elsewhere", "centre"):
        for row in range(3):
            for region in sites[name][row]:
                assert region.sum() == 100
                assert (region & regions[row]).sum() <= 25
        assert not sites[name][3].any()
    assert torch.equal(sites["mirrored"][0, 0], regions[0].flip(1))
    assert torch.equal(sites["all but the marked"][:, 0], ~regions)


def test_averaged_explainers_are_paired_with_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(RECIPE.parent))
    import averaged

    from apercu.evaluation import ComparisonKey, ComparisonResults, MetricRow

    images = [f"{n}.png" for n in range(30)]
    names = (
        "cam",
        "cam:augmented=8",
        "rise:masks=9",
        "rise:masks=9,augmented=4",
        "mask:augmented=8",
    )
    values = {name: 0.1 * n for n, name in enumerate(names)}
    values["rise:masks=9,augmented=4"] = 0.15
    results = ComparisonResults(
        ComparisonKey("timm/tiny", "f00d" * 16, "films", 30, "labels", "0", {}),
        environment={},
        explainers={name: name for name in names},
        rows=tuple(
            MetricRow(name, "ncc", values[name], (0.0, 1.0), 30, "higher") for name in names
        ),
        scores={(name, "ncc"): dict.fromkeys(images, values[name]) for name in names},
    )
    text = averaged.render_table(results)
    assert "| cam:augmented=8 | 0.000 → 0.100 ▲ (+0.100 to +0.100) |" in text
    assert "| rise:masks=9,augmented=4 | 0.200 → 0.150 ▼ (−0.050 to −0.050) |" in text
    assert "mask:augmented=8" not in text
    assert text.endswith("Better beyond chance in 1 of 2 cells, worse in 1.")
