"""Whether the `video` extra is installed."""

from __future__ import annotations

from importlib.util import find_spec

from apercu.errors import ConfigError


def check_installed() -> None:
    """Raises ConfigError if PyAV is missing."""
    if find_spec("av") is None:
        raise ConfigError("video: av (PyAV) is not installed; pip install 'apercu[video]'")
