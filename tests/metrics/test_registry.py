"""Every metric is one file, and the registry holds all of them."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

import apercu.metrics
from apercu.errors import ConfigError
from apercu.metrics import Metric
from apercu.metrics.record import MetricInput
from apercu.metrics.registry import METRICS, is_threshold_needed


def find_records() -> Iterator[Metric]:
    for module in pkgutil.iter_modules(apercu.metrics.__path__, "apercu.metrics."):
        if module.name != "apercu.metrics.registry":
            values = vars(importlib.import_module(module.name)).values()
            yield from (value for value in values if isinstance(value, Metric))


def test_the_registry_holds_every_record_under_its_name() -> None:
    records = list(find_records())
    assert len(records) == len(METRICS) > 20
    assert {record.name: record for record in records} == METRICS
    assert all(name == record.name for name, record in METRICS.items())
    assert apercu.metrics.names() == tuple(METRICS)


def test_functions_are_exported_under_the_names_of_their_metrics() -> None:
    assert {name.removesuffix("_nc") for name in METRICS} <= set(apercu.metrics.__all__)


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_record_is_complete(metric: Metric) -> None:
    assert metric.takes and set(metric.takes) <= set(get_args(MetricInput))
    assert metric.better in ("lower", "higher")
    assert metric.title and metric.phrase and metric.meaning and "\n" not in metric.meaning


def test_what_a_metric_needs_follows_from_what_it_takes() -> None:
    assert [name for name in METRICS if METRICS[name].thresholded] == [
        *("saliency_metric", "localisation_error", "max_box_acc_30", "max_box_acc_50"),
        *("max_box_acc_70", "max_box_acc_v2", "iou"),
    ]
    assert {name for name in METRICS if METRICS[name].explains_again} == {
        *("randomisation", "max_sensitivity", "background_invariance"),
    }
    truths = {name: metric.truth for name, metric in METRICS.items() if metric.truth != "none"}
    assert truths == {
        "localisation_error": "boxes",
        "max_box_acc_30": "boxes",
        "max_box_acc_50": "boxes",
        "max_box_acc_70": "boxes",
        "max_box_acc_v2": "boxes",
        "iou": "region",
        "iou_at_area": "any",
        "iou_over_percentiles": "any",
        "pointing_game": "any",
        "pointing_game_15": "any",
        "energy": "any",
        "ncc": "any",
        "background_invariance": "region",
    }
    assert is_threshold_needed(["dauc", "iou"]) and not is_threshold_needed(["dauc", "energy"])


def test_a_metric_by_name() -> None:
    assert apercu.metrics.get("iou") is METRICS["iou"]
    with pytest.raises(ConfigError, match="got ious; did you mean iou"):
        apercu.metrics.get("ious")


def test_values_as_people_read_them() -> None:
    assert METRICS["localisation_error"].format_value(0.344) == "34.4\u00a0%"
    assert METRICS["road"].format_value(-0.0126) == "−0.013"
    assert METRICS["sparsity"].format_value(7.26) == "7.3"


def test_every_metric_stands_in_the_manual() -> None:
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    better = {name: row[2].strip() for row in rows for name in re.findall(r"`(\w+)`", row[1])}
    by_name = {name for row in rows if "(by name)" in row[1] for name in better if name in row[1]}
    assert better == {name: metric.better for name, metric in METRICS.items()}
    assert by_name & set(METRICS) >= {n for n, metric in METRICS.items() if metric.by_name_only}
    meanings = (docs / "explanations" / "what-the-numbers-mean.md").read_text(encoding="utf-8")
    assert {name for name in METRICS if f"**`{name}`**" not in meanings} == set()
