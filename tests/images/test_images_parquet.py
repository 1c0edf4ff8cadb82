"""Hugging Face's image layout: names, order, laziness, and damaged files."""

from __future__ import annotations

import io
import json
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from apercu.errors import ImageError, ImagesError
from apercu.images import open_images, parquet
from apercu.images.parquet import ParquetImages

NAMES = ["cat", "dog"]


def png(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((4, 6), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def write_table(
    path: Path, images: list[Any], labels: list[Any] | None, names: Any = NAMES
) -> Path:
    columns = {"image": images} | ({} if labels is None else {"label": labels})
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    table = pa.table(columns).replace_schema_metadata(metadata if names else None)
    pq.write_table(table, path, row_group_size=3)
    return path


def make_rows(count: int) -> list[dict[str, Any]]:
    return [{"bytes": png(index), "path": f"{index}.png"} for index in range(count)]


def test_names_labels_and_order(tmp_path: Path) -> None:
    source = open_images(write_table(tmp_path / "x.parquet", make_rows(8), [0, 1] * 4))
    assert (len(source), source.class_names, source.labelled) == (8, ("cat", "dog"), True)
    values = [round(float(item.picture[0, 0, 0]) * 255) for item in source]
    assert values == list(range(8))
    assert [item.label for item in source] == NAMES * 4
    assert source[7].name == "row-7" and source[-1].name == "row-7"
    assert source[5].picture.shape == (3, 4, 6)
    with pytest.raises(IndexError, match="image 8 of a source of 8"):
        source[8]


def test_without_class_names_labels_are_indices(tmp_path: Path) -> None:
    source = open_images(
        write_table(tmp_path / "x.parquet", make_rows(2), [5, None], names=None), channels=1
    )
    assert (source[0].label, source[1].label, source.class_names) == (5, None, None)


def test_plain_bytes_without_labels(tmp_path: Path) -> None:
    source = open_images(write_table(tmp_path / "x.parquet", [png(9)], None))
    assert (source.labelled, source[0].label) == (False, None)


def test_a_limited_number_of_bytes_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "KEPT_BYTES", 1)
    source = open_images(write_table(tmp_path / "x.parquet", make_rows(9), [0] * 9))
    assert isinstance(source, ParquetImages)
    for index in (0, 8, 4):
        assert source[index].name == f"row-{index}"
        assert list(source.groups._kept) == [index // 3]


def test_threads_forks_and_pickles(tmp_path: Path) -> None:
    source = open_images(write_table(tmp_path / "x.parquet", make_rows(30), [0] * 30))

    def read_value(index: int) -> int:
        return round(float(source[index].picture[0, 0, 0]) * 255)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read_value, range(30))) == list(range(30))
    again = pickle.loads(pickle.dumps(source))
    assert not again.groups._kept and again[29].name == "row-29"
    groups = source.groups  # type: ignore[attr-defined]
    groups._process = os.getpid() + 1  # as it looks to the child of a fork,
    groups._lock.acquire()  # while another thread of the parent was reading
    assert read_value(12) == 12


def test_bad_rows(tmp_path: Path) -> None:
    images = [{"bytes": None, "path": None}, {"bytes": b"text", "path": "b"}]
    source = open_images(write_table(tmp_path / "x.parquet", images, [1, 0]))
    assert [source.label(index) for index in (0, 1, -2)] == ["dog", "cat", "dog"]
    with pytest.raises(ImageError, match=r"x.parquet row-0: expected the picture's bytes"):
        source[0]
    with pytest.raises(ImageError, match=r"x.parquet row-1: image: not an image"):
        source[1]


def test_bad_files(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(ImagesError, match="not a Parquet file that can be read"):
        open_images(path)
    write_table(path, [], [])
    with pytest.raises(ImagesError, match="no images, the table has no rows"):
        open_images(path)
    pq.write_table(pa.table({f"c{n}": [1] for n in range(20)}), path)
    with pytest.raises(ImagesError, match=r"expected a column image .* got c0, .*c7 …$"):
        open_images(path)
    source = open_images(write_table(path, make_rows(3), [0, 1, 0]))
    data = bytearray(path.read_bytes())
    data[4:200] = bytes(196)
    path.write_bytes(data)
    with pytest.raises(ImagesError, match="row group 0 is damaged"):
        source[0]


def test_fields_in_any_order_and_rows_with_a_path(tmp_path: Path) -> None:
    (tmp_path / "img").mkdir()
    Image.new("L", (6, 4), 51).save(tmp_path / "img" / "0.png")
    content = (tmp_path / "img" / "0.png").read_bytes()
    rows = [
        {"path": "x.png", "bytes": content},
        {"path": "img/0.png", "bytes": None},
        {"path": str(tmp_path / "img" / "0.png"), "bytes": b""},
        {"path": "../0.png", "bytes": None},
    ]
    kind = pa.struct([("path", pa.string()), ("bytes", pa.binary())])
    pq.write_table(pa.table({"image": pa.array(rows, kind)}), tmp_path / "a.parquet")
    source = open_images(tmp_path / "a.parquet", channels=1)
    for index in range(3):
        assert source[index].picture.shape == (1, 4, 6)
    with pytest.raises(ImageError, match=r"row-3: has no bytes, and its path .* leads out of"):
        source[3]


@pytest.mark.parametrize("column", ["file_name", "image_path"])
def test_a_column_of_paths_under_its_usual_names(tmp_path: Path, column: str) -> None:
    Image.new("L", (6, 4), 51).save(tmp_path / "0.png")
    table = pa.table({"text": ["a dog"], column: ["0.png"], "label": ["dog"]})
    pq.write_table(table, tmp_path / "metadata.parquet")
    item = open_images(tmp_path / "metadata.parquet", channels=1)[0]
    assert item.picture.shape == (1, 4, 6) and item.label == "dog"


def test_the_only_column_of_bytes_holds_the_pictures(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (6, 4), 51).save(stream, "PNG")
    table = pa.table({"jpg": [stream.getvalue()], "path": ["elsewhere.png"], "cls": [0]})
    pq.write_table(table, tmp_path / "a.parquet")
    assert open_images(tmp_path / "a.parquet", channels=1)[0].picture.shape == (1, 4, 6)
