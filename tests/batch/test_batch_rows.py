"""The rows of a result hold what the explainer computes image by image."""

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

import apercu
from apercu import MaskExplainer, maps, read_picture
from apercu.deploy.batch import BatchSettings, Workers, explain_dataset, run_batch
from apercu.deploy.batch.shard_writer import TRUST_COLUMNS, name_kept_column
from apercu.errors import ConfigError, RunError, TargetError
from apercu.verdicts import CANNOT_JUDGE

from .conftest import COUNT, encode_noise, read_files, read_rows


def test_every_row_holds_the_explanation_of_its_image(explain, tiny_run, photos) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    rows = read_rows(explain(map="float16"))
    assert [row["index"] for row in rows] == list(range(COUNT))
    assert [row["id"] for row in rows] == sorted(path.name for path in photos.iterdir())
    for row in rows:
        if row["error"] is not None:
            continue
        picture = read_picture(photos / row["id"])
        image = explainer.prepare(picture)[None]
        probabilities = explainer.estimate_logits(image).softmax(1)[0]
        assert row["target"] == int(probabilities.argmax())
        assert row["class"] == explainer.classifier_info.classes[row["target"]]
        assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert (row["height"], row["width"]) == picture.shape[1:]
        expected = explainer.attribute(image, row["target"])
        actual = np.frombuffer(row["map"], "<f2").reshape(32, 32)
        np.testing.assert_allclose(actual, expected[0], atol=1e-3)
        corners = [row[name] for name in ("xmin", "ymin", "xmax", "ymax")]
        box = maps.tight_boxes(maps.find_regions(expected, 0.5))[0] / 32
        height, width = picture.shape[1:]
        scaled = box * torch.tensor([width, height, width, height])
        assert (corners == [None] * 4) == (not box.any())
        if box.any():
            assert np.abs(np.array(corners) - scaled.numpy()).max() <= 1


def test_an_unreadable_image_has_an_error_in_its_row_and_in_errors_csv(explain) -> None:
    out = explain()
    wrong = [row for row in read_rows(out) if row["error"] is not None]
    assert [row["id"] for row in wrong] == ["005.png", "022.png"]
    for row in wrong:
        assert "not an image" in row["error"]
        assert {row[name] for name in ("map", "target", "probability", "xmin", "width")} == {None}
    lines = (out / "errors.csv").read_text().splitlines()
    assert lines[0] == "index,id,error"
    assert [line.split(",")[:2] for line in lines[1:]] == [["5", "005.png"], ["22", "022.png"]]


def test_png_and_uint8_hold_the_same_maps(explain, tmp_path) -> None:
    pictures = read_rows(explain(map="png", out=tmp_path / "png"))
    arrays = read_rows(explain(map="uint8", out=tmp_path / "uint8"))
    exact = read_rows(explain(map="float16", out=tmp_path / "float16"))
    for picture, array, half in zip(pictures, arrays, exact, strict=True):
        if picture["error"] is not None:
            assert array["map"] is None
            continue
        values = np.frombuffer(array["map"], np.uint8).reshape(32, 32)
        np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture["map"]))), values)
        halves = np.frombuffer(half["map"], "<f2").reshape(32, 32).astype(np.float32)
        assert np.abs(values / 255 - halves).max() <= 0.5 / 255 + 1e-3


def test_a_class_by_name_is_explained_in_every_image(explain, tiny_run, photos) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    for row in read_rows(explain(target="dots", map="float16")):
        if row["error"] is not None:
            continue
        image = explainer.prepare(read_picture(photos / row["id"]))[None]
        assert row["target"] == 1
        probability = float(explainer.estimate_logits(image).softmax(1)[0, 1])
        assert row["probability"] == pytest.approx(probability, abs=1e-5)


def test_the_manifest_counts_and_signs_every_shard(explain, tiny_run) -> None:
    out = explain()
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["images"], manifest["errors"]) == (COUNT, 2)
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 3]
    assert [shard["errors"] for shard in manifest["shards"]] == [1, 0, 1]
    for shard in manifest["shards"]:
        content = (out / shard["file"]).read_bytes()
        assert shard["sha256"] == hashlib.sha256(content).hexdigest()
        assert shard["bytes"] == len(content)
        assert shard["first"] == shard["shard"] * 10
    info = MaskExplainer.from_pretrained(tiny_run).classifier_info
    assert manifest["explainer"]["fingerprint"] == info.fingerprint
    assert manifest["versions"]["torch"] == torch.__version__.split("+")[0]
    assert set(read_files(out)) == {
        *(shard["file"] for shard in manifest["shards"]),
        *("manifest.json", "errors.csv", "job.json", ".lock"),
    }


def test_the_rows_depend_neither_on_workers_nor_on_shards(explain, tmp_path) -> None:
    one = explain(out=tmp_path / "one", workers=Workers(readers=1, threads=1))
    many = explain(out=tmp_path / "many", workers=Workers(readers=8, threads=1))
    assert read_files(one) == read_files(many)
    wide = explain(out=tmp_path / "wide", shard=20)
    assert read_rows(wide) == read_rows(one)


def test_the_rows_depend_on_the_batch_by_rounding_only(explain, tmp_path) -> None:
    few = read_rows(explain(out=tmp_path / "few", batch=1, map="uint8"))
    many = read_rows(explain(out=tmp_path / "many", batch=7, map="uint8"))
    for one, other in zip(few, many, strict=True):
        assert one["id"] == other["id"]
        assert one["error"] == other["error"]
        if one["map"] is not None:
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
            values = [np.frombuffer(row["map"], np.uint8).astype(int) for row in (one, other)]
            assert np.abs(values[0] - values[1]).max() <= 1


def test_some_images_are_drawn_by_the_seed(explain, tmp_path) -> None:
    drawn = {
        seed: [
            row["id"] for row in read_rows(explain(limit=8, seed=seed, out=tmp_path / f"{seed}"))
        ]
        for seed in (0, 1)
    }
    assert all(ids == sorted(set(ids)) and len(ids) == 8 for ids in drawn.values())
    assert drawn[0] != drawn[1]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_names_that_are_not_utf8_are_escaped(make_request, tmp_path) -> None:
    folder = tmp_path / os.fsdecode(b"photos\xfe")
    folder.mkdir()
    (folder / os.fsdecode(b"a\xff.png")).write_bytes(b"no picture")
    (folder / os.fsdecode(b"b\xff.png")).write_bytes(encode_noise(1))
    request = make_request(images=folder)
    run_batch(request, lambda count, total: None)
    damaged, whole = read_rows(request.out)
    assert (damaged["id"], whole["id"], whole["error"]) == ("a\\xff.png", "b\\xff.png", None)
    assert "a\\xff.png: not an image" in damaged["error"]
    assert "a\\xff.png" in (request.out / "errors.csv").read_text(encoding="utf-8")


def test_boxes_and_masks_are_not_read(explain, tmp_path) -> None:
    folder = tmp_path / "photos"
    (folder / "masks").mkdir(parents=True)
    for name in ("a.png", "b.png"):
        (folder / name).write_bytes(encode_noise(1))
    (folder / "boxes.csv").write_text("file,xmin,ymin,xmax,ymax\na.png,900,900,950,950\n")
    (folder / "masks" / "b.png").write_bytes(b"no mask")
    assert [row["error"] for row in read_rows(explain(images=folder))] == [None, None]


def test_a_row_group_holds_many_batches(explain) -> None:
    out = explain(shard=20, batch=2)
    assert pq.ParquetFile(out / "maps" / "00000000.parquet").num_row_groups == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"level": 1.0}, "level: expected a number above 0"),
        ({"format": "zarr"}, "Zarr holds arrays"),
        ({"shard": 3}, "at least the images of a batch, 16, got 3"),
        ({"limit": 0}, "limit: expected at least 1"),
    ],
)
def test_invalid_settings_are_refused(options, words) -> None:
    with pytest.raises(ConfigError, match=words):
        BatchSettings(**options)


def test_the_record_does_not_depend_on_workers_and_device(make_request, tmp_path: Path) -> None:
    first, second = Workers(device="cpu"), Workers(readers=3)
    records = [make_request(workers=workers).open().record for workers in (first, second)]
    assert records[0] == records[1]


def test_the_number_of_threads_is_restored(make_request) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        run_batch(make_request(workers=Workers(threads=1)), lambda count, total: None)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("opened", [False, True])
def test_the_python_call_gives_the_rows_of_the_request(
    opened, explain, tiny_run, photos, tmp_path
) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run) if opened else str(tiny_run)
    counts: list[tuple[int, int]] = []
    summary = apercu.explain_dataset(
        explainer,
        photos,
        tmp_path / "python",
        shard=10,
        batch=4,
        threads=1,
        progress=lambda count, total: counts.append((count, total)),
    )
    assert (summary.explained, counts[-1]) == (COUNT, (COUNT, COUNT))
    content = summary.manifest
    numbers = f"errors={content['errors']}, shards={len(content['shards'])}, explained={COUNT}"
    assert repr(summary).startswith(f"BatchSummary(images={COUNT}, {numbers}, seconds=")
    assert len(repr(summary)) < 120
    assert read_rows(tmp_path / "python") == read_rows(explain())


@pytest.mark.usefixtures("shapes_unchecked")
def test_targets_are_those_of_explain(tiny_run, photos, tmp_path) -> None:
    explainer, options = MaskExplainer.from_pretrained(tiny_run), {"limit": 3, "threads": 1}
    out = tmp_path / "maps"
    for target in (1, np.int64(1), np.array(1), torch.tensor(1), "1"):  # the folder is continued
        summary = apercu.explain_dataset(explainer, photos, out, target=target, **options)
        assert summary.manifest["settings"]["target"] == "1"
    assert {row["target"] for row in read_rows(out)} == {1}
    for target in ([1], 1.0, np.array([1, 2]), True):
        with pytest.raises(TargetError, match="expected a class name or index, got"):
            apercu.explain_dataset(explainer, photos, tmp_path / "none", target=target, **options)
        with pytest.raises(TargetError, match="expected a class name or index, got"):
            explainer.explain(photos / "001.png", target=target)
    with pytest.raises(TargetError, match="expected a class index from 0 to 2, got 3"):
        apercu.explain_dataset(explainer, photos, tmp_path / "none", target=np.uint8(3), **options)
    rows = [
        apercu.explain_dataset(explainer, photos, tmp_path / str(target), target=target, **options)
        and read_rows(tmp_path / str(target))
        for target in (None, "top")
    ]
    assert rows[0] == rows[1]


def test_an_index_is_no_name_of_a_class(tiny_run, photos, tmp_path) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    explainer.classifier_info = explainer.classifier_info.model_copy(
        update={"classes": ("2", "0", "1"), "identifiers": ("2", "0", "1")}
    )
    for target, index in ((np.int64(1), 1), ("1", 2)):
        out = tmp_path / str(index)
        summary = apercu.explain_dataset(explainer, photos, out, target=target, limit=2, threads=1)
        assert {row["target"] for row in read_rows(out)} == {index}
        assert summary.manifest["settings"]["target"] in (1, "1")


def test_a_cluster_takes_no_opened_explainer(tiny_run, photos, tmp_path) -> None:
    explainer = MaskExplainer.from_pretrained(tiny_run)
    with pytest.raises(ConfigError, match="give the path of its run"):
        apercu.explain_dataset(explainer, photos, tmp_path / "maps", cluster="local")


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_a_guard_adds_columns(
    format: str, tiny_run, tiny_card, tiny_guard, photos, tmp_path
) -> None:
    import zarr

    out = tmp_path / "maps"
    options = {"classifier": tiny_card, "format": format, "shard": 16, "batch": 4}
    explain_dataset(tiny_run, photos, out, guard=tiny_guard, **options)
    guard = apercu.load_guard(tiny_guard, tiny_card, tiny_run)
    classifier = guard.observer.classifier
    for row, path in enumerate(sorted(photos.iterdir())[:7]):
        if format == "zarr":
            group = zarr.open_group(out / "maps.zarr", mode="r")
            values = {name: group[name][row] for name in TRUST_COLUMNS}
        else:
            values = {name: read_rows(out)[row][name] for name in TRUST_COLUMNS}
        if row == 5:  # no picture
            empty = {None} if format == "parquet" else {"", "nan"}
            found = {value if value is None else str(value) for value in values.values()}
            assert found == empty
            continue
        (expected,) = guard.check(classifier.prepare(apercu.read_picture(path))[None])
        assert values["alarms"] == ",".join(expected.alarms)
        assert values["why"] == expected.why
        for name in ("tampered", "unknown", "confidence"):
            assert values[name] == pytest.approx(getattr(expected, name), abs=1e-3)
    manifest = json.loads((out / "manifest.json").read_text())
    assert len(manifest["explainer"]["guard"]) == 64
    with pytest.raises(RunError, match="explainer"):  # rows with and without do not mix
        explain_dataset(tiny_run, photos, out, **options)


def test_a_kept_column_makes_room_for_those_of_a_guard() -> None:
    assert name_kept_column("why", has_guard=True) == "source.why"
    assert name_kept_column("why") == "why"


def test_an_image_that_cannot_be_judged_has_the_reason(
    tiny_run, tiny_card, tiny_guard, photos, tmp_path
) -> None:
    guard = apercu.load_guard(tiny_guard, tiny_card, tiny_run)
    guard.network.signals[0].mean.fill_(float("nan"))
    options = {"classifier": guard.observer.classifier, "guard": guard, "limit": 6}
    explain_dataset(tiny_run, photos, tmp_path / "maps", **options)
    rows = [row for row in read_rows(tmp_path / "maps") if row["error"] is None]
    assert rows and all(row["why"] == CANNOT_JUDGE for row in rows)
    assert all(row[name] is None for row in rows for name in ("tampered", "unknown", "alarms"))
