"""What a detection found, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apercu.output import write
from apercu.robustness.detection.flow import Row

RESULTS = "detection.json"


def save_rows(
    rows: Sequence[Row], about: Mapping[str, Any], environment: Mapping[str, Any], folder: Path
) -> Path:
    """Writes `detection.json`; raises `OutputError`."""
    content = {
        **about,
        "rows": [row._asdict() for row in rows],
        "environment": dict(environment),
    }
    return write(folder / RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")
