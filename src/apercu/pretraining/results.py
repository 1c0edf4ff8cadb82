"""What was measured of features, as a file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apercu.output import write
from apercu.pretraining.few_labels import Row

RESULTS = "features.json"


def save_rows(
    rows: Sequence[Row], about: Mapping[str, Any], environment: Mapping[str, Any], folder: Path
) -> Path:
    """Writes `features.json`; raises `OutputError`."""
    content = {
        **about,
        "rows": [row._asdict() for row in rows],
        "environment": dict(environment),
    }
    return write(folder / RESULTS, json.dumps(content, indent=1, allow_nan=False) + "\n")
