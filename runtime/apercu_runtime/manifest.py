"""Read and check `explainer.json`, which describes an exported folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from apercu_runtime.errors import ConfigError, RunError, suggest_nearest
from apercu_runtime.names import ClassNames

MANIFEST = "explainer.json"
VERSION = 1
"""Version of the manifests that can be read."""
PROGRAM = "program"
"""The role of a file that only PyTorch runs."""


@dataclass(frozen=True)
class Manifest:
    """What an exported folder holds.

    Attributes:
        folder: the folder.
        kind: the kind of the explainer, `mask` or `counterpart`.
        channels: the number of channels of the images.
        size: the height and width of the images.
        counts: whether pixels may have any finite value, not only those in [0, 1].
        names: the names of the classes.
        files: the file name and SHA-256 of each graph, by role.
    """

    folder: Path
    kind: str
    channels: int
    size: tuple[int, int]
    counts: bool
    names: ClassNames
    files: Mapping[str, tuple[str, str]]

    def read_graph(self, role: str) -> bytes:
        """Read the bytes of a graph, and check that they are the exported ones.

        Raises:
            ConfigError: there is no graph of that role.
            RunError: its file is missing, or not the exported one.
        """
        graphs = [name for name in self.files if name != PROGRAM]
        if role not in graphs:
            raise ConfigError(
                f"graph: expected one of {', '.join(graphs)}, got {role}"
                f"{suggest_nearest(role, graphs)}"
            )
        name, expected = self.files[role]
        path = self.folder / name
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); export again") from None
        if hashlib.sha256(content).hexdigest() != expected:
            raise RunError(f"{path}: damaged, or not the graph that {MANIFEST} lists; export again")
        return content


def read_manifest(folder: str | Path) -> Manifest:
    """Read the manifest of an exported folder.

    Raises:
        RunError: it is missing, damaged, or of another version.
    """
    path = Path(folder) / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(
            f"{folder}: expected an exported explainer, found no {MANIFEST}; write one with "
            "`apercu export`"
        ) from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); export again") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise RunError(
            f"{path}: expected version {VERSION}, got {version}; install the apercu-runtime of the "
            "apercu that wrote it, or export again"
        )
    try:
        return _parse_manifest(Path(folder), content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{path}: damaged ({type(error).__name__}: {error}); export again") from None


def _parse_manifest(folder: Path, content: dict[str, Any]) -> Manifest:
    height, width = content["input"]["size"]
    names = ClassNames(tuple(content["classes"]), tuple(content["identifiers"]))
    if len(names.names) != len(names.identifiers):
        raise ValueError("classes and identifiers differ in number")
    files = {}
    for role, entry in content["files"].items():
        if Path(entry["file"]).name != entry["file"]:
            raise ValueError(f"{entry['file']} leads out of the folder")
        files[role] = (str(entry["file"]), str(entry["sha256"]))
    return Manifest(
        folder=folder,
        kind=str(content["kind"]),
        channels=int(content["input"]["channels"]),
        size=(int(height), int(width)),
        counts=content["input"]["range"] == "counts",
        names=names,
        files=files,
    )
