"""What stands in the rows, beside the explainer asked image by image."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from apercu import MaskExplainer, maps, read_picture
from apercu.deploy.batch import BatchSettings, Workers, run_batch
from apercu.errors import ConfigError

from .conftest import COUNT, bytes_of, encoded, rows_of


def test_every_row_is_what_the_explainer_says_of_that_image(explained, tiny_run, photos) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    rows = rows_of(explained(map="float16"))
    assert [row["index"] for row in rows] == list(range(COUNT))
    assert [row["id"] for row in rows] == sorted(path.name for path in photos.iterdir())
    for row in rows:
        if row["error"] is not None:
            continue
        picture = read_picture(photos / row["id"])
        image = explainer.prepare(picture)[None]
        probabilities = explainer.predict_logits(image).softmax(1)[0]
        assert row["target"] == int(probabilities.argmax())
        assert row["class"] == explainer.classifier_info.classes[row["target"]]
        assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert (row["height"], row["width"]) == picture.shape[1:]
        expected = explainer.attribute(image, row["target"])
        found = np.frombuffer(row["map"], "<f2").reshape(32, 32)
        np.testing.assert_allclose(found, expected[0], atol=1e-3)
        corners = [row[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        box = maps.tight_boxes(maps.find_regions(expected, 0.5))[0] / 32
        height, width = picture.shape[1:]
        scaled = box * torch.tensor([width, height, width, height])
        assert (corners == [None] * 4) == (not box.any())
        if box.any():
            assert np.abs(np.array(corners) - scaled.numpy()).max() <= 1


def test_what_cannot_be_read_is_a_row_with_an_error_and_a_line(explained) -> None:
    out = explained()
    wrong = [row for row in rows_of(out) if row["error"] is not None]
    assert [row["id"] for row in wrong] == ["005.png", "022.png"]
    for row in wrong:
        assert "not an image" in row["error"]
        assert {row[name] for name in ("map", "target", "probability", "xmin", "width")} == {None}
    lines = (out / "errors.csv").read_text().splitlines()
    assert lines[0] == "index,id,error"
    assert [line.split(",")[:2] for line in lines[1:]] == [["5", "005.png"], ["22", "022.png"]]


def test_maps_in_eight_bits_are_the_same_as_png_and_as_bytes(explained, tmp_path) -> None:
    pictures = rows_of(explained(map="png", out=tmp_path / "png"))
    arrays = rows_of(explained(map="uint8", out=tmp_path / "uint8"))
    exact = rows_of(explained(map="float16", out=tmp_path / "float16"))
    for picture, array, half in zip(pictures, arrays, exact, strict=True):
        if picture["error"] is not None:
            assert array["map"] is None
            continue
        values = np.frombuffer(array["map"], np.uint8).reshape(32, 32)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture["map"]))), values)
        halves = np.frombuffer(half["map"], "<f2").reshape(32, 32).astype(np.float32)
        assert np.abs(values / 255 - halves).max() <= 0.5 / 255 + 1e-3


def test_a_class_by_name_is_explained_in_every_image(explained, tiny_run, photos) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    for row in rows_of(explained(target="dots", map="float16")):
        if row["error"] is not None:
            continue
        image = explainer.prepare(read_picture(photos / row["id"]))[None]
        assert row["target"] == 1
        share = float(explainer.predict_logits(image).softmax(1)[0, 1])
        assert row["probability"] == pytest.approx(share, abs=1e-5)


def test_the_manifest_counts_and_signs_every_shard(explained, tiny_run) -> None:
    out = explained()
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["images"], manifest["errors"]) == (COUNT, 2)
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 3]
    assert [shard["errors"] for shard in manifest["shards"]] == [1, 0, 1]
    for shard in manifest["shards"]:
        content = (out / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)
        assert shard["first"] == shard["shard"] * 10
    passport = MaskExplainer.from_pretrained(tiny_run).classifier_info
    assert manifest["explainer"]["fingerprint"] == passport.fingerprint
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(bytes_of(out)) == {
        *(shard["file"] for shard in manifest["shards"]),
        *("manifest.json", "errors.csv", "job.json", ".lock"),
    }


def test_the_rows_depend_neither_on_workers_nor_on_shards(explained, tmp_path) -> None:
    one = explained(out=tmp_path / "one", crew=Workers(readers=1, threads=1))
    many = explained(out=tmp_path / "many", crew=Workers(readers=8, threads=1))
    assert bytes_of(one) == bytes_of(many)
    wide = explained(out=tmp_path / "wide", shard=20)
    assert rows_of(wide) == rows_of(one)


def test_the_rows_depend_on_the_batch_by_rounding_only(explained, tmp_path) -> None:
    few = rows_of(explained(out=tmp_path / "few", batch=1, map="uint8"))
    many = rows_of(explained(out=tmp_path / "many", batch=7, map="uint8"))
    for one, other in zip(few, many, strict=True):
        assert one["id"] == other["id"]
        assert one["error"] == other["error"]
        if one["map"] is not None:
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
            values = [np.frombuffer(row["map"], np.uint8).astype(int) for row in (one, other)]
            assert np.abs(values[0] - values[1]).max() <= 1


def test_some_images_are_drawn_by_the_seed(explained, tmp_path) -> None:
    drawn = {
        seed: [
            row["id"] for row in rows_of(explained(limit=8, seed=seed, out=tmp_path / f"{seed}"))
        ]
        for seed in (0, 1)
    }
    assert all(ids == sorted(set(ids)) and len(ids) == 8 for ids in drawn.values())
    assert drawn[0] != drawn[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_names_that_are_not_utf8_are_escaped(order, tmp_path) -> None:
    folder = tmp_path / os.fsdecode(b"photos\xfe")
    folder.mkdir()
    (folder / os.fsdecode(b"a\xff.png")).write_bytes(b"no picture")
    (folder / os.fsdecode(b"b\xff.png")).write_bytes(encoded(1))
    asked = order(images=folder)
    run_batch(asked, lambda done, total: None)
    damaged, whole = rows_of(asked.out)
    assert (damaged["id"], whole["id"], whole["error"]) == ("a\\xff.png", "b\\xff.png", None)
    assert "a\\xff.png: not an image" in damaged["error"]
    assert "a\\xff.png" in (asked.out / "errors.csv").read_text(encoding="utf-8")


def test_boxes_and_masks_are_not_read(explained, tmp_path) -> None:
    folder = tmp_path / "photos"
    (folder / "masks").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encoded(1))
    (folder / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax\na.png,900,900,950,950\n")
    (folder / "masks" / "b.png").write_bytes(b"no mask")
    assert [row["error"] for row in rows_of(explained(images=folder))] == [None, None]


def test_a_row_group_holds_many_batches(explained) -> None:
    out = explained(shard=20, batch=2)
    assert pq.ParquetFile(out / "maps" / "00000000.parquet").num_row_groups == 1


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"level": 1.0}, "level: expected a number above 0"),
        ({"format": "zarr"}, "Zarr holds arrays"),
        ({"shard": 3}, "at least the images of a batch, 16, got 3"),
        ({"limit": 0}, "limit: expected at least 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(asked, words) -> None:
    with pytest.raises(ConfigError, match=words):
        BatchSettings(**asked)


def test_a_device_has_no_part_in_a_result(order, tmp_path: Path) -> None:
    assert order(crew=Workers(device="cpu")).open().job == order(crew=Workers(readers=3)).open().job


def test_threads_are_those_of_before(order) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_batch(order(crew=Workers(threads=1)), lambda *far: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
