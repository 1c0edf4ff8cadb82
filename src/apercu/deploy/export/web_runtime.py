"""ONNX Runtime for browsers: its files come from the registry of npm, and are checked."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from apercu.errors import ConfigError, first_line
from apercu.io import expand_home, is_folder, write_file

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY: Final = (
    "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
"""SHA-512 of its tarball, `dist.integrity` of the registry of npm."""
TARBALL = f"{PACKAGE}-{VERSION}.tgz"
FILES = {
    "ort.js": "ort.wasm.min.mjs",
    "ort-threads.js": "ort-wasm-simd-threaded.mjs",
    "ort.wasm": "ort-wasm-simd-threaded.wasm",
}
"""Name in an exported folder → name in `dist/` of the package."""
DIGESTS = {
    "ort.js": "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    "ort-threads.js": "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    "ort.wasm": "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
}
"""SHA-256 of these files, for a package that is unpacked already."""
_SECONDS = 300


@dataclass(frozen=True, eq=False)
class WebRuntime:
    """ONNX Runtime for browsers, as it is copied to an exported folder.

    Attributes:
        files: the content of each file, by its name in an exported folder.
    """

    files: dict[str, bytes]


def read_web_runtime(source: str | Path | None = None) -> WebRuntime:
    """Read ONNX Runtime for browsers, and check that it is the known one.

    Args:
        source: the tarball that `npm pack` writes, or the folder of the unpacked package; None
            for the tarball in the user's cache folder, where npm puts it when it is missing.

    Returns:
        The files.

    Raises:
        ConfigError: it is missing, or is another version or damaged.
    """
    if source is None:
        return _read_tarball(_find_tarball())
    path = expand_home(str(source))
    return _read_folder(path) if is_folder(path) else _read_tarball(path)


def find_cache_folder() -> Path:
    """Return the folder in which the tarball is kept, below the cache folder of the user."""
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or "~/.cache"
    return expand_home(base) / "apercu"


def _find_tarball() -> Path:
    """Return the tarball in the cache folder; npm puts it there once."""
    path = find_cache_folder() / TARBALL
    if path.is_file():
        return path
    npm = shutil.which("npm")
    advice = f"run `npm pack {PACKAGE}@{VERSION}` where there is npm, and give --runtime {TARBALL}"
    if npm is None:
        raise ConfigError(f"web: needs {PACKAGE} {VERSION}, and npm is not installed; {advice}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"{PACKAGE}@{VERSION}", "--silent", "--pack-destination", folder]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_SECONDS)
            content = (Path(folder) / TARBALL).read_bytes()
        except (OSError, subprocess.SubprocessError) as error:
            raise ConfigError(f"web: npm cannot fetch {PACKAGE} {VERSION}; {advice}") from error
    _check_tarball(path, content)
    return write_file(path, content)


def _read_tarball(path: Path) -> WebRuntime:
    content = _read_file(path)
    _check_tarball(path, content)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = {name: archive.extractfile(f"package/dist/{own}") for name, own in FILES.items()}
        return WebRuntime({name: file.read() for name, file in members.items() if file})


def _check_tarball(path: Path, content: bytes) -> None:
    """Raise ConfigError unless these are the bytes that the registry of npm names."""
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != INTEGRITY:
        raise _describe_other(path)


def _read_folder(path: Path) -> WebRuntime:
    files = {name: _read_file(path / "dist" / own) for name, own in FILES.items()}
    for name, content in files.items():
        if hashlib.sha256(content).hexdigest() != DIGESTS[name]:
            raise _describe_other(path / "dist" / FILES[name])
    return WebRuntime(files)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"runtime: {path} cannot be read ({first_line(error)}); expected {TARBALL} of "
            f"`npm pack {PACKAGE}@{VERSION}`, or the unpacked package"
        ) from error


def _describe_other(path: Path) -> ConfigError:
    return ConfigError(
        f"runtime: {path} is not {PACKAGE} {VERSION} as the registry of npm has it (its SHA "
        f"differs); fetch it with `npm pack {PACKAGE}@{VERSION}`"
    )
