"""`manifest.json` and `errors.csv`: what a finished result says of itself."""

from __future__ import annotations

import csv
import io
import json
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import apercu
from apercu.deploy.batch.job import BatchRecord
from apercu.deploy.batch.shard_writer import ShardWriter
from apercu.deploy.batch.work_folder import ShardRecord
from apercu.errors import RunError
from apercu.io import write_file, write_json

MANIFEST = "manifest.json"
ERRORS_FILE = "errors.csv"
PACKAGES = ("torch", "onnxruntime", "numpy", "pillow", "pyarrow", "zarr")


def write_manifest(
    out: Path, record: BatchRecord, records: Sequence[ShardRecord]
) -> dict[str, Any]:
    """Writes the manifest, whose being there means that everything is.

    Raises:
        OutputError: the folder cannot be written.
    """
    told = record.model_dump(mode="json")
    content = {
        "version": told["version"],
        "apercu": apercu.__version__,
        "source": {name: told[name] for name in ("images", "count", "sha256")},
        "explainer": told["explainer"],
        "settings": told["settings"],
        "images": sum(record.rows for record in records),
        "errors": sum(record.errors for record in records),
        "bytes": sum(record.bytes for record in records),
        "versions": {"python": platform.python_version(), **_find_versions()},
        "shards": [record.model_dump() for record in records],
    }
    write_json(out / MANIFEST, content)
    return content


def read_finished(out: Path) -> dict[str, Any]:
    """The manifest of a result whose shards are there, those that are files whole.

    Raises:
        RunError: it is damaged, or tells of a file that is not there.
    """
    try:
        content: dict[str, Any] = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        shards = [ShardRecord.model_validate(one) for one in content["shards"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{out / MANIFEST}: damaged; delete it and choose another --out") from error
    for shard in shards:
        path = out / shard.file
        if not path.exists() or (path.is_file() and path.stat().st_size != shard.bytes):
            raise RunError(
                f"{path}: missing or damaged, though {MANIFEST} tells of it; delete {out} and run "
                "the same again"
            )
    return content


def write_failures(out: Path, shard_writer: ShardWriter, records: Sequence[ShardRecord]) -> None:
    """Writes a line for each image that could not be read.

    Raises:
        OutputError: the folder cannot be written.
    """
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(("index", "id", "error"))
    for record in records:
        if record.errors:
            lines.writerows(shard_writer.read_failures(record))
    write_file(out / ERRORS_FILE, text.getvalue())


def _find_versions() -> dict[str, str]:
    """Of the packages that numbers and bytes depend on, where they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
