from __future__ import annotations

import io
import json
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

PLANTED = "planted:size=32,images=12,classes=3,difficulty=0"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(9):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg")
    (folder / "4.jpg").write_bytes(b"no picture")
    return folder


def test_a_folder_is_explained_and_the_slowest_stage_is_named(
    apercu, quiet_run, photos, tmp_path
) -> None:
    out = tmp_path / "maps"
    words = ("batch", quiet_run, photos, "--out", out, "--shard", "4", "--batch", "2")
    result = apercu(*words)
    assert (result.code, result.err) == (0, "")
    first, second, last = result.out.splitlines()
    assert re.fullmatch(
        r"9 images in [\d.]+ s, [\d.]+ per second; busy: reading \d+%, explaining \d+%, "
        r"writing \d+%; (reading|explaining|writing) was the slowest",
        first,
    )
    assert second == "1 of 9 images could not be read: errors.csv"
    assert re.fullmatch(rf"9 images in 3 shards, 0\.\d MB: {out}", last)
    rows = [row for file in sorted(out.glob("maps/*")) for row in pq.read_table(file).to_pylist()]
    assert [row["id"] for row in rows] == [f"{number}.jpg" for number in range(9)]
    again = apercu(*words)
    assert again.out.splitlines() == ["nothing was left to do", second, last]


def test_every_option_reaches_the_manifest(apercu, quiet_run, tmp_path) -> None:
    out = tmp_path / "maps"
    result = apercu(
        *("batch", quiet_run, PLANTED, "--out", out, "--format", "zarr", "--map", "float16"),
        *("--target", "dots", "--level", "0.3", "--shard", "5", "--batch", "3", "--limit", "7"),
        *("--seed", "3", "--workers", "2", "--threads", "1", "--device", "cpu"),
    )
    assert (result.code, result.err) == (0, "")
    settings = json.loads((out / "manifest.json").read_text())["settings"]
    assert settings == {
        **{"target": "dots", "level": 0.3, "format": "zarr", "map": "float16"},
        **{"shard": 5, "batch": 3, "limit": 7, "seed": 3, "keep": []},
    }


def test_zarr_stores_uint8_by_default(apercu, quiet_run, tmp_path) -> None:
    assert apercu("batch", quiet_run, PLANTED, "--out", tmp_path, "--format", "zarr").code == 0
    assert json.loads((tmp_path / "manifest.json").read_text())["settings"]["map"] == "uint8"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("--target", "dogs"), "no class is called 'dogs'; did you mean dots?"),
        (("--format", "parket"), "format: expected one of parquet, zarr, got parket"),
        (("--map", "jpeg"), "map: expected one of png, uint8, float16, got jpeg"),
        (("--format", "zarr", "--map", "png"), "Zarr holds arrays"),
        (("--shard", "2"), "shard: expected at least the images of a batch, 16, got 2"),
        (("--level", "1"), "level: expected a number above 0 and below 1"),
        (("--cluster", "nonsense://"), "cluster: nonsense:// cannot be reached"),
        (("--cluster", "127.0.0.1:1"), "cluster: 127.0.0.1:1 cannot be reached ("),
    ],
)
def test_a_wrong_option_is_one_line(apercu, quiet_run, tmp_path, words, error) -> None:
    result = apercu("batch", quiet_run, PLANTED, "--out", tmp_path / "maps", *words)
    assert result.code == (1 if "--cluster" in words else 2)
    assert error in result.err
    assert len(result.err.splitlines()) == 1
    assert not list(tmp_path.glob("maps/maps/*"))


def test_wrong_paths_are_one_line_and_write_nothing(apercu, quiet_run, tiny_card, tmp_path) -> None:
    out = tmp_path / "maps"
    for run, images, error in (
        (tmp_path, PLANTED, "expected a run folder"),
        (quiet_run, tmp_path / "nowhere", "no such file or folder"),
        (quiet_run, "ftp://host/photos", "expected a URL of s3"),
        (quiet_run, tmp_path, "no images"),
    ):
        result = apercu("batch", run, images, "--out", out)
        assert result.code == 2
        assert error in result.err
        assert len(result.err.splitlines()) == 1
        assert not out.exists()


def test_a_result_begun_with_other_settings_is_refused(apercu, quiet_run, tmp_path) -> None:
    assert apercu("batch", quiet_run, PLANTED, "--out", tmp_path).code == 0
    result = apercu("batch", quiet_run, PLANTED, "--out", tmp_path, "--target", "dots")
    assert result.code == 2
    assert "had settings.target top, now dots; use the same, or choose another --out" in result.err


def test_columns_are_kept_and_total_failure_is_an_error(apercu, quiet_run, tmp_path) -> None:
    pixels = Image.new("RGB", (8, 8), (200, 90, 10))
    buffer = io.BytesIO()
    pixels.save(buffer, "PNG")
    pq.write_table(
        pa.table({"image": [buffer.getvalue()] * 2, "label": [1, 2]}), tmp_path / "a.parquet"
    )
    result = apercu(
        *("batch", quiet_run, tmp_path / "a.parquet", "--out", tmp_path / "maps"),
        *("--keep", "label", "--keep", "image"),
    )
    assert (result.code, result.err) == (0, "")
    table = pq.read_table(tmp_path / "maps" / "maps")
    assert table["label"].to_pylist() == [1, 2]
    pq.write_table(pa.table({"image": ["none.png"] * 2}), tmp_path / "b.parquet")
    result = apercu("batch", quiet_run, tmp_path / "b.parquet", "--out", tmp_path / "none")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert "none of 2 images could be read" in result.err
    assert result.err.count("\n") == 1
