"""`manifest.json` and `errors.csv`: what a finished result holds."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import apercu
from apercu.deploy.batch.settings import BatchRecord
from apercu.deploy.batch.shard_writer import ShardWriter
from apercu.deploy.batch.work_folder import ShardRecord
from apercu.errors import RunError
from apercu.io import format_csv_rows, parse_json, write_file, write_json

MANIFEST = "manifest.json"
ERRORS_FILE = "errors.csv"
PACKAGES = ("torch", "onnxruntime", "numpy", "pillow", "pyarrow", "zarr")


def write_manifest(
    out: Path, record: BatchRecord, records: Sequence[ShardRecord]
) -> dict[str, Any]:
    """Write the manifest; where it exists, the result is complete.

    Args:
        out: the folder of the result.
        record: what the result depends on.
        records: the records of all shards, in order.

    Returns:
        The content of the manifest.

    Raises:
        OutputError: the folder cannot be written.
    """
    begun = record.model_dump(mode="json")
    content = {
        "version": begun["version"],
        "apercu": apercu.__version__,
        "source": {name: begun[name] for name in ("images", "count", "sha256")},
        "explainer": begun["explainer"],
        "settings": begun["settings"],
        "images": sum(shard.rows for shard in records),
        "errors": sum(shard.errors for shard in records),
        "bytes": sum(shard.bytes for shard in records),
        "versions": {"python": platform.python_version(), **_find_versions()},
        "shards": [shard.model_dump() for shard in records],
    }
    write_json(out / MANIFEST, content)
    return content


def read_finished(out: Path) -> dict[str, Any]:
    """Read the manifest of a finished result, and check that the files of its shards are there.

    Raises:
        RunError: the manifest is damaged, or lists a file that is missing or incomplete.
    """
    try:
        content: dict[str, Any] = parse_json((out / MANIFEST).read_bytes())
        shards = [ShardRecord.model_validate(entry) for entry in content["shards"]]
        if not all(type(content[name]) is int for name in ("images", "errors", "bytes")):
            raise TypeError("counts that are no whole numbers")
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{out / MANIFEST}: damaged; delete it and choose another --out") from error
    for shard in shards:
        path = out / shard.file
        if not path.exists() or (path.is_file() and path.stat().st_size != shard.bytes):
            raise RunError(
                f"{path}: missing or damaged, though {MANIFEST} lists it; delete {out} and run "
                "the same command again"
            )
    return content


def write_failures(out: Path, shard_writer: ShardWriter, records: Sequence[ShardRecord]) -> None:
    """Write `errors.csv`, with a line for each image that could not be read.

    Args:
        out: the folder of the result.
        shard_writer: reads the errors of a shard.
        records: the records of all shards, in order.

    Raises:
        OutputError: the folder cannot be written.
    """
    rows: list[Iterable[object]] = [("index", "id", "error")]
    for record in records:
        if record.errors:
            rows += shard_writer.read_failures(record)
    write_file(out / ERRORS_FILE, format_csv_rows(rows))


def _find_versions() -> dict[str, str]:
    """Return the versions of the installed packages that numbers and bytes depend on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
