"""Small pictures in folders and tables, and orders to explain them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from apercu.deploy.batch import BatchRequest, BatchSettings, ExplainerRef, Workers, run_batch

COUNT = 23


def encoded(seed: int, format: str = "PNG") -> bytes:
    """A picture of noise, each of another size."""
    size = (30 + seed % 7, 40 - seed % 5, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures in a folder; the sixth and the last cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        content = b"no picture" if number in (5, COUNT - 1) else encoded(number)
        (folder / f"{number:03}.png").write_bytes(content)
    return folder


def write_table(path: Path, seeds: range, group: int = 4) -> Path:
    """Pictures as rows of a Parquet file, in Hugging Face's layout."""
    rows = [{"image": {"bytes": encoded(seed), "path": f"{seed}.png"}} for seed in seeds]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.fixture
def order(tiny_run: Path, photos: Path, tmp_path: Path) -> Callable[..., BatchRequest]:
    """An order for small shards; `run`, `images`, `out`, `crew` and settings may be others."""

    def make(**asked: Any) -> BatchRequest:
        return BatchRequest(
            ExplainerRef(asked.pop("run", tiny_run)),
            str(asked.pop("images", photos)),
            asked.pop("out", tmp_path / "maps"),
            workers=asked.pop("crew", Workers(readers=2, threads=1)),
            settings=BatchSettings(**{"shard": 10, "batch": 4, **asked}),
        )

    return make


@pytest.fixture
def explained(order: Callable[..., BatchRequest]) -> Callable[..., Path]:
    """Explains what is asked; the folder of the result."""

    def run(**asked: Any) -> Path:
        asked_for = order(**asked)
        run_batch(asked_for, lambda done, total: None)
        return asked_for.out

    return run


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All rows of a result, in the order of its shards."""
    files = sorted((out / "maps").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def bytes_of(out: Path) -> dict[str, bytes]:
    """Every file of a result."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
