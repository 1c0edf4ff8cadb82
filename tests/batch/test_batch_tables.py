"""Parquet files as people write them: paths, lists of bytes, dictionaries, further columns."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pyarrow import fs

from apercu.classifiers import InputSpec
from apercu.deploy.batch import BatchSettings, explain_dataset
from apercu.deploy.batch.parquet_dataset import ParquetDataset
from apercu.deploy.batch.remote_files import RemoteFiles
from apercu.deploy.batch.request import open_dataset
from apercu.errors import ConfigError, ImageError, ImagesError

from .conftest import encode_noise, read_rows

INPUT = InputSpec(channels=3, size=(32, 32))
STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def write_columns(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, **options)
    return path


def encode_all(count: int) -> list[bytes]:
    return [encode_noise(seed) for seed in range(count)]


def as_numbers(pictures: Sequence[bytes], kind: Any) -> pa.Array:
    signed = kind == pa.int8()
    return pa.array(
        [np.frombuffer(picture, np.int8 if signed else np.uint8) for picture in pictures],
        pa.list_(kind),
    )


@pytest.mark.parametrize(
    "build",
    [
        lambda pictures: pa.array(pictures, pa.binary()),
        lambda pictures: pa.array(pictures, pa.large_binary()),
        lambda pictures: pa.array(pictures, pa.binary()).dictionary_encode(),
        lambda pictures: as_numbers(pictures, pa.uint8()),
        lambda pictures: as_numbers(pictures, pa.int8()),
        lambda pictures: pa.array([{"bytes": one, "path": None} for one in pictures], STRUCT),
        lambda pictures: pa.array(
            [{"path": "a", "bytes": one} for one in pictures],
            pa.struct([("path", pa.string()), ("bytes", pa.large_binary())]),
        ),
        lambda pictures: pa.array([[one] for one in pictures], pa.list_(pa.binary())),
        lambda pictures: pa.array(
            [[{"bytes": one, "path": None}] for one in pictures], pa.list_(STRUCT)
        ),
    ],
    ids=[
        *("binary", "large", "dictionary", "uint8", "int8"),
        *("struct", "path first", "lists of one", "lists of one struct"),
    ],
)
def test_bytes_of_every_kind_are_read(tmp_path, build) -> None:
    from apercu import read_picture

    pictures = encode_all(4)
    path = write_columns(tmp_path / "a.parquet", {"image": build(pictures)}, row_group_size=3)
    dataset = open_dataset(str(path), INPUT, BatchSettings())
    for index, content in enumerate(pictures):
        np.testing.assert_array_equal(dataset.read_picture(index), read_picture(content))


def test_the_column_of_pictures_may_have_another_name(tmp_path) -> None:
    pictures = pa.array([{"bytes": one, "path": None} for one in encode_all(2)], STRUCT)
    path = write_columns(tmp_path / "a.parquet", {"id": ["a", "b"], "scan": pictures})
    assert open_dataset(str(path), INPUT, BatchSettings()).read_picture(1).shape[0] == 3
    plain = pa.table({"scan": encode_all(2), "mask": encode_all(2)})
    features = b'{"info": {"features": {"scan": {"_type": "Image"}, "mask": {"_type": "Value"}}}}'
    pq.write_table(plain.replace_schema_metadata({b"huggingface": features}), path)
    assert len(open_dataset(str(path), INPUT, BatchSettings())) == 2
    pq.write_table(plain, path)  # which of the two?
    with pytest.raises(ImagesError, match="expected a column image"):
        open_dataset(str(path), INPUT, BatchSettings())


def write_paths(folder: Path) -> Path:
    """Write four pictures, and a table of paths: two inside, one missing, one outside."""
    (folder / "img").mkdir(parents=True)
    (folder / "img" / "0.png").write_bytes(encode_noise(0))
    (folder / "1.png").write_bytes(encode_noise(1))
    (folder.parent / "2.png").write_bytes(encode_noise(2))
    names = ["img/0.png", str(folder / "1.png"), "none.png", "../2.png", None]
    rows = pa.array([{"bytes": None, "path": name} for name in names], STRUCT)
    return write_columns(folder / "paths.parquet", {"image": rows})


def test_rows_with_a_path_alone_are_read_beside_their_file(explain, tmp_path) -> None:
    path = write_paths(tmp_path / "set")
    rows = read_rows(explain(images=path))
    assert [row["error"] is None for row in rows] == [True, True, False, False, False]
    assert "none.png" in rows[2]["error"]
    assert "its path ../2.png leads out of" in rows[3]["error"]
    assert "expected the picture's bytes or its path, got nothing" in rows[4]["error"]


def test_a_column_of_paths_is_read(tmp_path) -> None:
    (tmp_path / "0.png").write_bytes(encode_noise(0))
    path = write_columns(tmp_path / "a.parquet", {"image": ["0.png", "1.png"]})
    dataset = open_dataset(str(path), INPUT, BatchSettings())
    assert dataset.read_picture(0).shape[0] == 3
    with pytest.raises(ImageError, match=r"^row-1: .*1\.png"):
        dataset.read_picture(1)


def test_paths_behind_a_url_are_read_from_there(tmp_path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "0.png").write_bytes(encode_noise(0))
    names = ["0.png", "sub/../0.png", "../1.png", "/etc/passwd", None]
    rows = pa.array([{"bytes": None, "path": name} for name in names], STRUCT)
    path = write_columns(tmp_path / "set" / "a.parquet", {"image": rows})
    system = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    files = RemoteFiles("s3://b", system, "", ("set/a.parquet",), (path.stat().st_size,))
    dataset = ParquetDataset(files, 3)
    assert dataset.read_picture(0).shape == dataset.read_picture(1).shape
    for index, words in ((2, "leads out of"), (3, "leads out of"), (4, "got nothing")):
        with pytest.raises(ImageError, match=rf"^row-{index}: .*{words}"):
            dataset.read_picture(index)


@pytest.mark.parametrize("format", ["parquet", "zarr"])
def test_if_no_image_at_all_can_be_read_it_is_an_error(tiny_run, tmp_path, format: str) -> None:
    rows = pa.array([{"bytes": None, "path": f"{number}.png"} for number in range(6)], STRUCT)
    path = write_columns(tmp_path / "set" / "a.parquet", {"image": rows})
    out = tmp_path / "maps"

    def run() -> Any:
        return explain_dataset(tiny_run, path, out, format=format, batch=2, shard=4)

    for _ in range(2):  # the second call begins anew
        with pytest.raises(ImagesError, match=r"none of 6 images could be read.*row-0: .*0\.png"):
            run()
    assert [file.name for file in out.iterdir() if not file.name.startswith(".")] == ["errors.csv"]
    assert (out / "errors.csv").read_text().count("\n") == 7
    (tmp_path / "set" / "3.png").write_bytes(encode_noise(3))
    assert run().manifest["errors"] == 5  # and one image is enough


def test_columns_are_kept_beside_the_result(explain, tmp_path) -> None:
    pictures = [{"bytes": encode_noise(n), "path": f"pic {n} é.png"} for n in range(5)]
    columns = {
        "image": pa.array([*pictures, None], STRUCT),
        "id": ["a", "b", "c", "d", "e", None],
        "patient": pa.array([1, 2, 3, None, 5, 6], pa.int16()),
        "finding": pa.array(["x", "y", "x", "y", "x", "x"]).dictionary_encode(),
        "boxes": pa.array([[1.0, 2.0], [], None, [3.0], [], []], pa.list_(pa.float32())),
    }
    path = write_columns(tmp_path / "a.parquet", columns, row_group_size=4)
    keep = ("image.path", "id", "patient", "finding", "boxes")
    rows = read_rows(explain(images=path, keep=keep))
    assert [row["image.path"] for row in rows] == [*(f"pic {n} é.png" for n in range(5)), None]
    for name, column in (("source.id", "id"), *((key, key) for key in keep[2:])):
        assert [row[name] for row in rows] == pa.array(columns[column]).to_pylist()
    assert [row["id"] for row in rows] == [f"row-{n}" for n in range(6)]
    assert rows[5]["error"] is not None


def test_a_column_with_a_dot_in_its_name_is_kept(explain, tmp_path) -> None:
    columns = {"image": encode_all(2), "patient": ["a", "b"], "patient.age": [40, 50]}
    rows = read_rows(
        explain(images=write_columns(tmp_path / "a.parquet", columns), keep=("patient.age",))
    )
    assert [row["patient.age"] for row in rows] == [40, 50]


@pytest.mark.parametrize("cell", ["a\0.png", "../a.png"])
def test_a_path_that_is_none_is_an_error_of_its_row(explain, tmp_path, cell: str) -> None:
    cells = [{"bytes": encode_noise(0), "path": None}, {"bytes": None, "path": cell}]
    path = write_columns(tmp_path / "a.parquet", {"image": pa.array(cells, STRUCT)})
    errors = [row["error"] for row in read_rows(explain(images=path))]
    assert errors[0] is None and "leads out of" in errors[1]


def test_a_list_that_is_no_bytes_is_an_error_of_its_row(explain, tmp_path) -> None:
    numbers = [[*encode_noise(0)], [1, None, 3]]
    path = write_columns(tmp_path / "a.parquet", {"image": pa.array(numbers, pa.list_(pa.uint8()))})
    errors = [row["error"] for row in read_rows(explain(images=path))]
    assert errors[0] is None and "expected numbers of bytes" in errors[1]


def test_keys_of_folders_are_kept(explain, tmp_path) -> None:
    for split in ("train", "test"):
        path = tmp_path / "set" / f"split={split}" / "0.parquet"
        write_columns(path, {"image": encode_all(2)})
    rows = read_rows(explain(images=tmp_path / "set", keep=("split",)))
    assert [row["split"] for row in rows] == ["test", "test", "train", "train"]


def test_columns_that_cannot_be_kept_are_refused(tmp_path, photos) -> None:
    path = write_columns(tmp_path / "set" / "a.parquet", {"image": encode_all(2), "label": [1, 2]})
    with pytest.raises(ConfigError, match=r"has no column 'labl', but image, label; did you mean"):
        open_dataset(str(path), INPUT, BatchSettings(keep=("labl",)))
    with pytest.raises(ConfigError, match="has no columns; only Parquet files have"):
        open_dataset(str(photos), INPUT, BatchSettings(keep=("label",)))
    write_columns(tmp_path / "set" / "b.parquet", {"image": encode_all(2), "label": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"label is int64 in a.parquet and string in b.parquet"):
        open_dataset(str(tmp_path / "set"), INPUT, BatchSettings(keep=("label",)))
    write_columns(path, {"image": encode_all(2), "id": [1, 2], "source.id": [3, 4]})
    with pytest.raises(ConfigError, match="two columns would be called source"):
        open_dataset(str(path), INPUT, BatchSettings(keep=("id", "source.id")))
    with pytest.raises(ConfigError, match="keep: Zarr's arrays have no missing values"):
        BatchSettings(format="zarr", map="uint8", keep=("label",))


def test_pictures_with_missing_parts_are_rows_with_errors(explain, tmp_path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    pictures = []
    for format, options in (("JPEG", {}), ("TIFF", {"compression": "raw"}), ("PNG", {})):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, format, **options)
        whole = buffer.getvalue()
        pictures.append(whole)
        pictures.append(whole[: len(whole) // 3] + (b"\xff\xd9" if format == "JPEG" else b""))
    (tmp_path / "folder").mkdir()
    for number, content in enumerate(pictures):
        ending = ("jpg", "tif", "png")[number // 2]
        (tmp_path / "folder" / f"{number}.{ending}").write_bytes(content)
    table = write_columns(tmp_path / "a.parquet", {"image": pictures})
    for name, images in (("folder", tmp_path / "folder"), ("table", table)):
        rows = read_rows(explain(images=images, out=tmp_path / name))
        assert [row["error"] is None for row in rows] == [True, False] * 3
