"""The pages of docs/reference/files name every key of the files that they describe."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from apercu.evaluation.results import ComparisonKey, ComparisonResults, Cost, MetricRow
from apercu.explainers.classifier_info import ClassifierInfo
from apercu.explainers.counterpart.settings import COUNTERPART_PRESETS
from apercu.explainers.latent.settings import LATENT_PRESETS
from apercu.explainers.mask.settings import MASK_PRESETS
from apercu.explainers.run_folder import _LINES
from apercu.images.planted import Planted
from apercu.robustness.defences.settings import DEFENCES
from apercu.robustness.plan import StressSettings
from apercu.training.record import TrainingContext

FILES = Path(__file__).resolve().parent.parent / "docs" / "reference" / "files"


def read_keys(page: str, heading: str) -> set[str]:
    """Return what stands in code in the first column of the tables below a heading."""
    text = (FILES / f"{page}.md").read_text(encoding="utf-8")
    section = text.split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("|")]
    return {key for cell in cells for key in re.findall(r"`([\w.]+)`", cell)}


def test_the_keys_of_results_are_complete() -> None:
    key = ComparisonKey("net", "0", "images", 2, "labels", "0", {})
    everything = {
        *ComparisonResults(key, {}, against="a", constant={"a": 1}).to_json(),
        "own_metrics",
    }
    assert read_keys("results", "## `results.json`") >= everything
    assert read_keys("results", "## A row") >= {each.name for each in fields(MetricRow)}
    assert read_keys("results", "## A cost") >= {each.name for each in fields(Cost)}


def test_the_keys_of_a_run_folder_are_complete() -> None:
    named = read_keys("run-folder", "## `facts.json`")
    assert named - {"advantage_error"} == set(_LINES)
    assert read_keys("run-folder", "## `order.json`") == set(TrainingContext.model_fields)
    page = (FILES / "run-folder.md").read_text(encoding="utf-8")
    for key in ClassifierInfo.model_fields:
        assert f"`{key}`" in page


def test_the_settings_of_an_attack_and_the_presets_are_complete() -> None:
    assert read_keys("settings", "## A file for attacks") == set(StressSettings.model_fields)
    page = (FILES / "settings.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[1].strip(): re.findall(r"`(\w+)`", line.split("|")[2])
        for line in page.splitlines()
        if line.startswith("| `train") or line.startswith("| `stress")
    }
    assert rows == {
        "`train mask`": list(MASK_PRESETS.presets),
        "`train counterpart`": list(COUNTERPART_PRESETS.presets),
        "`train latent`": list(LATENT_PRESETS.presets),
        "`stress train`": list(DEFENCES.presets),
    }


@pytest.mark.parametrize("each", fields(Planted), ids=lambda each: each.name)
def test_the_settings_of_the_planted_set_have_their_defaults(each) -> None:
    page = (FILES / "image-folders.md").read_text(encoding="utf-8")
    if each.name != "channels":  # the classifier decides them
        assert f"| `{each.name}` | `{each.default}` |" in page
