"""The same rows as arrays."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import zarr

from apercu.deploy.batch import run_batch
from apercu.deploy.batch.work_folder import WorkFolder
from apercu.deploy.batch.zarr_shards import FILL_VALUES

from .conftest import COUNT, read_files, read_rows


@pytest.mark.parametrize("map", ["uint8", "float16"])
def test_arrays_hold_what_the_tables_hold(map, explain, tmp_path) -> None:
    rows = read_rows(explain(out=tmp_path / "tables", map=map))
    group = zarr.open_group(
        explain(out=tmp_path / "arrays", map=map, format="zarr") / "maps.zarr", mode="r"
    )
    assert set(group.array_keys()) == set(rows[0])
    assert group["map"].shape == (COUNT, 32, 32)
    assert group["map"].chunks == (10, 32, 32)
    assert group["map"].dtype == np.dtype(map)
    for name, fill_value in FILL_VALUES.items():
        values = group[name][:]
        for row, value in zip(rows, values, strict=True):
            expected = fill_value if row[name] is None else row[name]
            if name == "map" and row["map"] is not None:
                expected = np.frombuffer(row["map"], map).reshape(32, 32)
            np.testing.assert_array_equal(value, expected)


def test_each_shard_is_signed(explain) -> None:
    out = explain(map="uint8", format="zarr")
    manifest = json.loads((out / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [10, 10, 3]
    assert manifest["errors"] == 2
    assert len((out / "errors.csv").read_text().splitlines()) == 3
    for shard in manifest["shards"]:
        sha = hashlib.sha256()
        for name in FILL_VALUES:
            end = f"{shard['shard']}/0/0" if name == "map" else f"{shard['shard']}"
            path = out / "maps.zarr" / name / "c" / end
            sha.update(path.read_bytes() if path.is_file() else b"")
        assert shard["sha256"] == sha.hexdigest()


def test_interrupted_arrays_are_completed(explain, make_request, tmp_path, monkeypatch) -> None:
    options = {"map": "uint8", "format": "zarr"}
    whole = read_files(explain(out=tmp_path / "whole", **options))
    finish_shard = WorkFolder.finish_shard
    for step in range(3):
        out, left = tmp_path / f"{step}", [step]

        def stop_after(self, record, left=left):
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            finish_shard(self, record)

        monkeypatch.setattr(WorkFolder, "finish_shard", stop_after)
        with pytest.raises(KeyboardInterrupt):
            run_batch(make_request(out=out, **options), lambda done, total: None)
        monkeypatch.setattr(WorkFolder, "finish_shard", finish_shard)
        (out / "maps.zarr" / "map" / "c" / "0.0123.partial").write_bytes(b"half")
        run_batch(make_request(out=out, **options), lambda done, total: None)
        assert read_files(out) == whole
