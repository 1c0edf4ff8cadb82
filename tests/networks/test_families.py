"""Every family of classifiers: opened, trained on, explained, exported; see docs/families.md."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FORCED = ("ViT", "DeiT", "DINOv3", "Swin", "Swin v2 CR", "ConvNeXt", "EfficientFormer v2")
"""Families that have to be trained on; others may be refused in one line."""


def load_script() -> ModuleType:
    """The script, which is no part of a package."""
    specification = importlib.util.spec_from_file_location("families", BENCHMARKS / "families.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["families"] = module
    specification.loader.exec_module(module)
    return module


families = load_script()


@pytest.mark.slow
@pytest.mark.parametrize("family", families.FAMILIES, ids=lambda family: family.name)
def test_a_family_works_or_says_why_not(family: object, tmp_path: Path) -> None:
    row = families.try_family(family, tmp_path)
    reasons = [row.opened, row.trained, row.explained, row.exported, *row.methods.values()]
    faults = [reason for reason in reasons if families.is_fault(reason)]
    assert not faults
    assert not row.opened and not row.explained
    if row.name in FORCED:
        assert not row.trained and not row.exported and row.difference < 1e-3


def test_the_page_is_made_of_the_stored_figures() -> None:
    rows = families.read_rows(families.DOCS)
    page = (families.DOCS / families.PAGE).read_text(encoding="utf-8")
    assert page == families.render_page(rows)
    assert len(rows) >= 45
    assert not [row.name for row in rows.values() if row.opened or row.explained]
