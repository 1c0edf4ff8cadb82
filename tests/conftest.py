"""Shapes and types are checked at run time here, and real data is found or skipped."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

install_import_hook("apercu", "beartype.beartype")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def apercu_data() -> Path:
    """The folder that holds `data/` and `models/`, from APERCU_DATA or beside the repository."""
    folder = Path(os.environ.get("APERCU_DATA", ROOT.parent / "shared"))
    if not (folder / "data").is_dir() or not (folder / "models").is_dir():
        pytest.skip(f"real data: no data/ and models/ in {folder}; set APERCU_DATA")
    return folder
