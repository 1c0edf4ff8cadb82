"""The same pictures give the same rows, whatever storage they come from."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from apercu.classifiers import InputSpec
from apercu.deploy.batch import remote_files
from apercu.deploy.batch.dataset import Dataset, UrlDataset
from apercu.deploy.batch.remote_files import RemoteFiles
from apercu.deploy.batch.request import open_dataset
from apercu.deploy.batch.settings import BatchSettings
from apercu.errors import ImageError, ImagesError, UnreachableError
from apercu.images import open_images

from .conftest import COUNT, encode_noise, read_rows, write_table

INPUT = InputSpec(channels=3, size=(32, 32))


def open_set(spec: object) -> Dataset:
    return open_dataset(str(spec), INPUT, BatchSettings())


def assert_pictures(dataset: Dataset, expected: list[bytes]) -> None:
    """Assert that a data set holds these pictures, in this order."""
    from apercu import read_picture

    assert len(dataset) == len(expected)
    for index, content in enumerate(expected):
        np.testing.assert_array_equal(dataset.read_picture(index), read_picture(content))


def drop_names(rows: list[dict]) -> list[dict]:
    return [{k: v for k, v in row.items() if k not in ("id", "error")} for row in rows]


def test_a_folder_behind_a_url_gives_the_rows_of_the_folder(explain, photos, tmp_path) -> None:
    near = read_rows(explain(out=tmp_path / "near"))
    far = read_rows(explain(out=tmp_path / "far", images=f"file://{photos}"))
    assert [row["id"] for row in far] == [row["id"] for row in near]
    assert drop_names(far) == drop_names(near)
    assert [row["error"] is None for row in far] == [row["error"] is None for row in near]
    assert "005.png: image: not an image" in far[5]["error"]


def test_tables_give_their_rows_in_order_of_name_and_row(tmp_path) -> None:
    write_table(tmp_path / "set" / "b" / "1.parquet", range(6, 9))
    write_table(tmp_path / "set" / "a.parquet", range(6))
    for spec in (tmp_path / "set", f"file://{tmp_path / 'set'}"):
        dataset = open_set(spec)
        assert_pictures(dataset, [encode_noise(seed) for seed in range(9)])
        names = [dataset.get_name(index) for index in (0, 5, 6, 8)]
        rows = ("a.parquet#row-0", "a.parquet#row-5", "b/1.parquet#row-0", "b/1.parquet#row-2")
        assert tuple(names) == rows


def test_pictures_beside_tables_are_refused(tmp_path) -> None:
    write_table(tmp_path / "t.parquet", range(3))
    (tmp_path / "a.png").write_bytes(encode_noise(1))
    for spec in (tmp_path, f"file://{tmp_path}"):
        with pytest.raises(ImagesError, match=r"got both \(such as a.png and t.parquet\)"):
            open_set(spec)
    (tmp_path / "labels.csv").write_text("file,label\na.png,x\n")
    assert_pictures(open_set(tmp_path), [encode_noise(1)])


def test_tables_further_below_are_read_as_by_their_url(tmp_path) -> None:
    write_table(tmp_path / "split=test" / "0.parquet", range(3))
    write_table(tmp_path / "split=train" / "0.parquet", range(3, 5))
    (tmp_path / "README.md").write_text("a data set")
    dataset = open_set(tmp_path)
    assert_pictures(dataset, [encode_noise(seed) for seed in range(5)])
    assert dataset.compute_digest() == open_set(f"file://{tmp_path}").compute_digest()
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")  # then the pictures are meant
    assert len(open_set(tmp_path)) == 1


def test_rows_of_one_table_are_named_as_in_other_verbs(tmp_path) -> None:
    path = write_table(tmp_path / "one.parquet", range(5))
    dataset = open_set(path)
    assert_pictures(dataset, [encode_noise(seed) for seed in range(5)])
    assert [dataset.get_name(index) for index in range(5)] == list(open_images(path).names)
    assert dataset.compute_digest() == open_set(f"file://{path}").compute_digest()


def test_the_digest_follows_names_and_sizes(tmp_path) -> None:
    write_table(tmp_path / "a.parquet", range(5))
    before = open_set(tmp_path).compute_digest()
    assert open_set(tmp_path).compute_digest() == before
    (tmp_path / "a.parquet").rename(tmp_path / "c.parquet")
    renamed = open_set(tmp_path).compute_digest()
    write_table(tmp_path / "c.parquet", range(6))
    assert len({before, renamed, open_set(tmp_path).compute_digest()}) == 3


def test_a_row_without_a_picture_and_a_damaged_group_are_rows_with_errors(
    explain, tmp_path
) -> None:
    rows = [{"image": {"bytes": encode_noise(0), "path": "a"}}, {"image": None}]
    path = tmp_path / "holes.parquet"
    pq.write_table(pa.Table.from_pylist(rows * 4), path, row_group_size=4, compression="zstd")
    meta = pq.read_metadata(path).row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = meta.dictionary_page_offset or meta.data_page_offset
    content[start : start + 60] = bytes(60)
    path.write_bytes(content)
    rows = read_rows(explain(images=path))
    assert [row["error"] is None for row in rows] == [True, False, True, False] + [False] * 4
    assert "expected the picture's bytes or its path, got nothing" in rows[1]["error"]
    assert "row group 1 is damaged" in rows[4]["error"]


class FailingSystem:
    """A file system that fails a number of times before it answers."""

    def __init__(self, system: fs.FileSystem, failures: int, error: type[OSError]) -> None:
        self.system, self.failures, self.error = system, failures, error
        self.calls = 0

    def open_input_file(self, path: str):
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise self.error("no route to host")
        return self.system.open_input_file(path)


def remote(
    folder: Path, failures: int, error: type[OSError] = OSError
) -> tuple[UrlDataset, FailingSystem]:
    (folder / "a.png").write_bytes(encode_noise(1))
    system = FailingSystem(fs.SubTreeFileSystem(str(folder), fs.LocalFileSystem()), failures, error)
    return UrlDataset(RemoteFiles("s3://bucket", system, "", ("a.png",), (1,)), INPUT), system


def test_a_storage_that_does_not_answer_is_tried_again(tmp_path, monkeypatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(remote_files, "time", SimpleNamespace(sleep=pauses.append))
    images, system = remote(tmp_path, failures=2)
    assert_pictures(images, [encode_noise(1)])
    assert (system.calls, pauses) == (3, [1.0, 2.0])
    images, _ = remote(tmp_path, failures=3)
    with pytest.raises(UnreachableError, match=r"no route to host.*run the same command again"):
        images.read_picture(0)


def test_a_missing_file_is_not_tried_again(tmp_path) -> None:
    images, system = remote(tmp_path, failures=1, error=FileNotFoundError)
    with pytest.raises(ImageError, match="cannot be read"):
        images.read_picture(0)
    assert system.calls == 1


def test_an_unreachable_storage_ends_the_run_which_can_be_continued(
    explain, photos, monkeypatch
) -> None:
    read = RemoteFiles.read_file

    def fail(self, file):
        if file == "012.png":
            raise UnreachableError("s3://bucket: the storage does not answer")
        return read(self, file)

    monkeypatch.setattr(RemoteFiles, "read_file", fail)
    with pytest.raises(UnreachableError):
        explain(images=f"file://{photos}")
    monkeypatch.setattr(RemoteFiles, "read_file", read)
    rows = read_rows(explain(images=f"file://{photos}"))
    assert sum(row["error"] is None for row in rows) == COUNT - 2


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are Unicode")
def test_a_url_of_a_name_that_is_not_utf8_is_refused(tmp_path) -> None:
    (tmp_path / os.fsdecode(b"a\xff.png")).write_bytes(encode_noise(1))
    with pytest.raises(ImagesError, match="a file whose name is not UTF-8; rename it"):
        open_set(f"file://{tmp_path}")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("ftp://host/photos", "expected a URL of s3, gs"),
        ("s3://", "expected a bucket or a folder after it"),
        ("gs:///?region=x", "expected a bucket or a folder after it"),
        ("file:///no/such/folder", "no such file or folder"),
        ("nowhere", "no such file or folder"),
        ("{empty}", "no images"),
        ("file://{empty}", "expected files that end in"),
        ("{text}", "not a Parquet file"),
    ],
)
def test_other_names_are_refused(spec, words, tmp_path) -> None:
    empty, text = tmp_path / "empty", tmp_path / "text.parquet"
    empty.mkdir()
    text.write_text("no table")
    with pytest.raises(ImagesError, match=words):
        open_set(spec.format(empty=empty, text=text))


def test_tables_of_other_columns_are_refused(tmp_path) -> None:
    pq.write_table(pa.table({"label": [1, 2]}), tmp_path / "a.parquet")
    with pytest.raises(ImagesError, match="expected a column image"):
        open_set(tmp_path)
    with pytest.raises(ImagesError, match=rf"^{tmp_path / 'a.parquet'}: expected a column"):
        open_set(tmp_path / "a.parquet")
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), tmp_path / "a.parquet")
    with pytest.raises(ImagesError, match="no images, the tables have no rows"):
        open_set(tmp_path)


def test_an_export_gives_the_rows_of_its_run(
    explain, tiny_run, tiny_card, tiny_export, tmp_path
) -> None:
    from apercu import MaskExplainer, open_classifier

    classifier = open_classifier(tiny_card)
    explainer = MaskExplainer.from_pretrained(tiny_run)
    rows = read_rows(explain(run=tiny_export, out=tmp_path / "onnx", map="uint8"))
    probabilities = classifier(_prepare_images(explainer, rows)).softmax(1)
    masks = explainer.attribute(
        _prepare_images(explainer, rows), [row["target"] for row in _select_read(rows)]
    )
    for row, probability, mask in zip(_select_read(rows), probabilities, masks, strict=True):
        assert row["target"] == int(probability.argmax())
        assert row["probability"] == pytest.approx(float(probability.max()), abs=1e-5)
        values = np.frombuffer(row["map"], np.uint8).reshape(32, 32) / 255
        assert np.abs(values - mask.numpy()).max() < 0.005
    named = _select_read(read_rows(explain(run=tiny_export, out=tmp_path / "named", target="dots")))
    assert {row["target"] for row in named} == {1}


def _select_read(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["error"] is None]


def _prepare_images(explainer, rows: list[dict]):
    import torch

    from apercu import read_picture

    pictures = [read_picture(encode_noise(row["index"])) for row in _select_read(rows)]
    return torch.stack([explainer.prepare(picture) for picture in pictures])
