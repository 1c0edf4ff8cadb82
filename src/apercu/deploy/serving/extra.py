"""Whether the `serve` extra is installed."""

from __future__ import annotations

from importlib.util import find_spec

from apercu.errors import ConfigError

NEEDED = ("litserve", "python_multipart", "prometheus_client")


def check_installed() -> None:
    """Raises ConfigError if a package of the extra is missing."""
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        raise ConfigError(
            f"serve: {', '.join(missing)} is not installed; pip install 'apercu[serve]'"
        )
