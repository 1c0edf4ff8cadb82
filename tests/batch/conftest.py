"""Small pictures in folders and tables, and requests to explain them."""

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


def encode_noise(seed: int, format: str = "PNG") -> bytes:
    """Return an encoded picture of noise; pictures of several seeds have several sizes."""
    size = (30 + seed % 7, 40 - seed % 5, 3)
    pixels = np.random.default_rng(seed).integers(0, 256, size, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures, of which the sixth and the last cannot be read."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        content = b"no picture" if number in (5, COUNT - 1) else encode_noise(number)
        (folder / f"{number:03}.png").write_bytes(content)
    return folder


def write_table(path: Path, seeds: range, group: int = 4) -> Path:
    """Write pictures as rows of a Parquet file, in Hugging Face's layout."""
    rows = [{"image": {"bytes": encode_noise(seed), "path": f"{seed}.png"}} for seed in seeds]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=group)
    return path


@pytest.fixture
def make_request(tiny_run: Path, photos: Path, tmp_path: Path) -> Callable[..., BatchRequest]:
    """Makes requests of small shards; `run`, `images`, `out`, `workers` and settings may vary."""

    def make(**options: Any) -> BatchRequest:
        return BatchRequest(
            ExplainerRef(options.pop("run", tiny_run)),
            str(options.pop("images", photos)),
            options.pop("out", tmp_path / "maps"),
            workers=options.pop("workers", Workers(readers=2, threads=1)),
            settings=BatchSettings(**{"shard": 10, "batch": 4, **options}),
        )

    return make


@pytest.fixture
def explain(make_request: Callable[..., BatchRequest]) -> Callable[..., Path]:
    """Explains images with the options of `make_request`, and returns the folder of the result."""

    def run(**options: Any) -> Path:
        request = make_request(**options)
        run_batch(request, lambda count, total: None)
        return request.out

    return run


def read_rows(out: Path) -> list[dict[str, Any]]:
    """Read all rows of a result, in the order of its shards."""
    files = sorted((out / "maps").glob("*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def read_files(out: Path) -> dict[str, bytes]:
    """Read every file of a result."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in files}
