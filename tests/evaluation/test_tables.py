"""The ranking in words: who is held against whom, what differs, when training pays."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from apercu.evaluation import ComparisonKey, ComparisonResults, Cost, Invocation, MetricRow
from apercu.evaluation.cost import compare_costs, equalise_costs
from apercu.evaluation.ranking import (
    build_ranking,
    compute_paired_differences,
    find_best_trained,
    sort_needs,
)
from apercu.evaluation.report import write_tables
from apercu.evaluation.report.finding import write_headline
from apercu.evaluation.report.tables import format_markdown
from apercu.statistics import bootstrap_interval

SUBJECT = ComparisonKey("timm/tiny", "f00d" * 16, "photographs", 80, "labels", "0", {})
IMAGES = [f"{n}.png" for n in range(40)]
MEANS = {"mask": 0.7, "mask:threshold=0.5": 0.6, "mask:run=b": 0.6, "cam": 0.4}


def cost(explainer: str, ms: float, batch: int = 1, training: float = 0.0) -> Cost:
    return Cost(explainer, "cpu", batch, ms, 0.0, ms / 5, training, 3.0, None)


@pytest.fixture
def results() -> ComparisonResults:
    generator = np.random.default_rng(0)
    hard = generator.normal(0, 0.1, len(IMAGES))
    scores = {
        (name, "iou"): dict(
            zip(IMAGES, (mean + hard + generator.normal(0, 0.02, 40)).tolist(), strict=True)
        )
        for name, mean in MEANS.items()
    }
    alternating = [0.02, -0.021] * (len(IMAGES) // 2)  # as often above as below
    scores["even", "iou"] = {
        image: value + change
        for (image, value), change in zip(scores["mask", "iou"].items(), alternating, strict=True)
    }
    rows = tuple(
        MetricRow(name, metric, float(np.mean(list(values.values()))), (0.0, 1.0), 40, "higher")
        for (name, metric), values in scores.items()
    )
    return ComparisonResults(
        SUBJECT,
        environment={"date": "2026-01-02T03:04:05", "seed": 0},
        explainers={name: name for name, _ in scores if "threshold" not in name},
        rows=rows,
        cost=(cost("mask", 10.0, training=600.0), cost("cam", 5.0), cost("even", 25.0)),
        scores=scores,
        failed={"rise": "no time"},
        needs={"mask": ("training",), "mask:run=b": ("training",), "cam": ("layers",), "even": ()},
        calls=(Invocation("apercu compare --limit 80", {"seed": 0}, ("mask", "cam")),),
    )


def test_the_best_trained_explainer_is_the_one_of_the_best_rank(results: ComparisonResults) -> None:
    assert find_best_trained(results) == "mask"
    assert find_best_trained(replace(results, needs={"cam": ("layers",)})) is None


def test_marks_say_which_explainers_differ_from_it(results: ComparisonResults) -> None:
    verdicts = {line.name: line.cells["iou"].verdict for line in build_ranking(results)}
    assert verdicts["mask"] is None
    assert verdicts["cam"] == verdicts["mask:run=b"] == "worse"
    assert verdicts["even"] == "even"
    lower = replace(results, rows=tuple(replace(row, better="lower") for row in results.rows))
    assert {line.name: line.cells["iou"].verdict for line in build_ranking(lower)}[
        "cam"
    ] == "better"


def test_a_second_row_stands_below_the_first_and_does_not_compete(
    results: ComparisonResults,
) -> None:
    names = [line.name for line in build_ranking(results)]
    assert names == ["mask", "mask:threshold=0.5", "even", "mask:run=b", "cam"]
    better = replace(
        results,
        rows=tuple(
            replace(row, value=0.9) if row.explainer.endswith("threshold=0.5") else row
            for row in results.rows
        ),
    )
    assert write_headline(better) == write_headline(results)
    two = replace(results, rows=tuple(row for row in results.rows if row.explainer != "even"))
    assert [line.name for line in build_ranking(two) if line.cells["iou"].best] == ["mask"]
    above = replace(better, rows=tuple(row for row in better.rows if row.explainer != "even"))
    assert not any(line.cells["iou"].best for line in build_ranking(above))  # a row is better


def test_equal_values_have_no_best(results: ComparisonResults) -> None:
    equal = replace(
        results,
        rows=tuple(replace(row, value=0.5) for row in results.rows),
        scores={key: dict.fromkeys(IMAGES, 0.5) for key in results.scores},
    )
    assert write_headline(equal).startswith("No explainer is clearly the best")
    assert not any(line.cells["iou"].best for line in build_ranking(equal))


def test_training_pays_once_the_time_that_each_image_saves_adds_up(
    results: ComparisonResults,
) -> None:
    after = {line.cost.explainer: line.break_even for line in compare_costs(results)}
    assert after == {"mask": {}, "cam": {}, "even": {"mask": 40_000}}
    elsewhere = (replace(results.cost[0], device="cuda"), *results.cost[1:])
    assert not any(line.break_even for line in compare_costs(replace(results, cost=elsewhere)))


def test_a_busy_machine_does_not_decide_when_training_pays(results: ComparisonResults) -> None:
    """Three times as slow while one was measured: three times the time, the same forwards."""
    slowed = replace(results.cost[2], ms_per_image=75.0)
    busy = replace(results, cost=(*results.cost[:2], slowed))
    assert [round(cost.ms_per_image, 6) for cost in equalise_costs(busy)] == [10.0, 5.0, 25.0]
    assert [line.break_even for line in compare_costs(busy)] == [{}, {}, {"mask": 40_000}]
    assert "| even | cpu, 1 | 75.0, one call |" in format_markdown(busy)


def test_the_tables_say_how_many_images_a_value_rests_on(results: ComparisonResults) -> None:
    some = replace(results.rows[0], metric="ncc", n=7)
    text = format_markdown(replace(results, rows=(*results.rows, some)))
    assert "on 40 of them" in text
    assert "| explainer | IoU ↑ | NCC ↑ (7 images) |" in text


def test_a_bar_in_a_reason_does_not_end_its_cell(results: ComparisonResults) -> None:
    text = format_markdown(replace(results, failed={"rise": "a|b"}))
    assert "| rise | not measured: a\\|b |" in text


def test_explainers_with_the_fewest_needs_come_first(results: ComparisonResults) -> None:
    assert next(iter(sort_needs(results))) == "even"


def test_markdown_holds_every_row_and_what_failed(results: ComparisonResults) -> None:
    text = format_markdown(results)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines[0] == "| explainer | IoU ↑ |"
    best = next(line for line in lines if line.startswith("| mask |"))
    assert "0.7" in best and "**" not in text  # even may be as good
    two = replace(results, rows=tuple(row for row in results.rows if row.explainer != "even"))
    assert "| mask | **0.7" in format_markdown(two)
    assert any(line.startswith("| cam | 0.394 ▼") for line in lines)
    assert any(line.startswith("| even | cpu, 1 | 25.0") and "40,000" in line for line in lines)
    assert "| rise | not measured: no time |" in text
    assert "apercu compare --limit 80" in text and "2026-01-02" in text


def test_the_spreadsheet_has_one_line_per_row(results: ComparisonResults, tmp_path: Path) -> None:
    write_tables(results, tmp_path)
    assert (tmp_path / "table.md").read_text().startswith("`apercu compare --limit 80`")
    with (tmp_path / "table.csv").open() as file:
        lines = {line["explainer"]: line for line in csv.DictReader(file)}
    assert set(lines) == {*MEANS, "even", "rise"}
    assert lines["rise"]["reason"] == "no time" and not lines["cam"]["reason"]
    assert lines["mask"]["difference"] == ""
    own, its = (np.array(list(results.scores[name, "iou"].values())) for name in ("cam", "mask"))
    assert float(lines["cam"]["difference"]) == pytest.approx((own - its).mean())
    assert float(lines["cam"]["p"]) < 0.05 < float(lines["even"]["p"])


def _results(scores: dict[str, dict[str, float]]) -> ComparisonResults:
    by_row = {(name, "iou"): values for name, values in scores.items()}
    return ComparisonResults(SUBJECT, environment={}, scores=by_row)


def test_only_images_that_both_have_are_compared() -> None:
    differences = compute_paired_differences(
        _results(
            {
                "mask": {"a": 0.5, "b": 0.7, "c": 0.9},
                "cam": {"b": 0.4, "c": 0.5, "d": 0.0},
                "edges": {"d": 1.0},
            }
        ),
        "iou",
        "mask",
    )
    assert set(differences) == {"cam"}
    assert differences["cam"].n == 2
    assert differences["cam"].difference == pytest.approx(-0.35)
    assert differences["cam"].ci95 == bootstrap_interval(np.array([0.4 - 0.7, 0.5 - 0.9]), 0)


def test_a_metric_that_the_reference_lacks_has_no_differences() -> None:
    assert compute_paired_differences(_results({"cam": {"a": 1.0}}), "iou", "mask") == {}
