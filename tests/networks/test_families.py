"""Every family of classifiers: opened, trained on, explained, exported (families.md)."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
FORCED = ("ViT", "DeiT", "DINOv3", "Swin", "Swin v2 CR", "ConvNeXt", "EfficientFormer v2")
"""Families that have to be trained on; others may be refused in one line."""


def load_script() -> ModuleType:
    """The script, which is no part of a package."""
    sys.path.insert(0, str(BENCHMARKS))  # it imports the files beside it
    specification = importlib.util.spec_from_file_location("families", BENCHMARKS / "families.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["families"] = module
    specification.loader.exec_module(module)
    return module


families = load_script()
table = sys.modules["family_table"]


@pytest.mark.slow
@pytest.mark.parametrize("family", table.FAMILIES, ids=lambda family: family.name)
def test_a_family_works_or_says_why_not(family: object, tmp_path: Path) -> None:
    row = families.try_family(family, tmp_path)
    reasons = [row.opened, row.trained, row.explained, row.exported, *row.methods.values()]
    faults = [reason for reason in reasons if table.is_fault(reason)]
    assert not faults
    assert not row.opened and not row.explained
    if row.name in FORCED:
        assert not row.trained and not row.exported and row.difference < 1e-3


def test_the_page_is_made_of_the_stored_figures() -> None:
    rows = table.read_rows(table.DOCS)
    page = (table.DOCS / table.PAGE).read_text(encoding="utf-8")
    assert page == table.render_page(rows)
    assert len(rows) >= 60
    assert not [row.name for row in rows.values() if row.opened or row.explained]
    assert f"{len(rows)} of {len(table.FAMILIES)} families were run" in page


def test_wrong_maps_are_faults_and_no_refusals(
    tiny_card: Path, tmp_path: Path, monkeypatch
) -> None:
    classifier = families.apercu.open_classifier(tiny_card)
    outputs = {
        "whole": torch.zeros(2, *classifier.size),
        "small": torch.zeros(2, 8, 8),
        "holes": torch.full((2, *classifier.size), torch.nan),
    }
    monkeypatch.setattr(families, "METHODS", dict.fromkeys(outputs))
    monkeypatch.setattr(families, "get", lambda name: lambda *given: outputs[name])
    reasons = dict(families._try_methods(classifier))
    assert [table.is_fault(reasons[name]) for name in outputs] == [False, True, True]

    row = table.Row("Tiny", str(tiny_card), 32, methods=reasons | {"refused": "no gradients"})
    for maps in (outputs["small"], outputs["holes"], outputs["whole"] + 1):
        opened, trained = (lambda *given, maps=maps: maps), (lambda *given: outputs["whole"])
        monkeypatch.setattr(families.apercu, "load_explainer", lambda run, opened=opened: opened)
        families._attempt(row, "explained", families._explain, classifier, trained, tmp_path, row)
        assert table.is_fault(row.explained)
    assert "1 of 4 methods, 2 faults" in table.describe(row)
    assert "1 of 4, 2 faults" in table.render_page({"Tiny": row})


def test_what_was_measured_names_no_folder_of_one_machine() -> None:
    stored = (BENCHMARKS.parent / "docs" / "reference" / table.RESULTS).read_text("utf-8")
    assert "card.json" in stored and "/card.json" not in stored and "/tmp" not in stored
    error = ValueError("/some/where/card.json\nhas none")
    assert families._describe_error(error) == f"{table.FAULT} ValueError: card.json has none"
