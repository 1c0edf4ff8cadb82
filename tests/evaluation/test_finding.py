"""What a comparison found, in sentences: who is best, how sure that is, and what never competes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from apercu.evaluation import ComparisonKey, ComparisonResults, MetricRow
from apercu.evaluation.ranking import build_ranking, find_leader
from apercu.evaluation.report.finding import write_finding, write_headline
from apercu.statistics import bootstrap_interval

SUBJECT = ComparisonKey("timm/tiny", "f00d", "/data/photographs", 80, "labels", "0", {})
KEYS = {"centre_box": "CentreBox(area=0.5)", "whole_box": "WholeBox()", "true_box": "TrueBox()"}
NEEDS = {"centre_box": (), "whole_box": (), "true_box": ("truth",)}
DIRECTIONS = {"localisation_error": "lower", "saliency_metric": "lower", "dauc": "lower"}


def make(
    means: dict[str, float],
    images: int = 40,
    spread: float = 0.05,
    metrics: tuple[str, ...] = ("iou",),
) -> ComparisonResults:
    """Results whose scores have these means; every explainer errs on the same hard images."""
    rows, scores = [], {}
    for column, metric in enumerate(metrics):
        generator = np.random.default_rng(column)
        hard = generator.normal(0, 0.1, images)
        for name, mean in means.items():
            noise = generator.normal(0, spread, images)
            values = mean + hard + noise - noise.mean()
            scores[name, metric] = {f"{n}.png": float(value) for n, value in enumerate(values)}
            better = DIRECTIONS.get(metric, "higher")
            interval = bootstrap_interval(values, 0)
            rows.append(MetricRow(name, metric, float(values.mean()), interval, images, better))
    return ComparisonResults(
        SUBJECT,
        environment={},
        explainers={name: KEYS.get(name, name) for name in means},
        rows=tuple(rows),
        scores=scores,
        needs={name: NEEDS.get(name, ("layers",)) for name in means},
    )


def list_best(results: ComparisonResults) -> list[str]:
    """The rows that are marked as the best of any column."""
    return [
        line.name for line in build_ranking(results) if any(c.best for c in line.cells.values())
    ]


def test_a_clear_winner_is_named_with_its_task() -> None:
    results = make({"mask": 0.8, "cam": 0.5, "gradient": 0.3})
    finding = write_finding(results)
    assert finding.headline == "mask is clearly the best of 3 explainers at outlining the object."
    assert finding.certainty.startswith("Measured on 40 images of photographs, the same for all")
    assert "p < 0.05" in finding.certainty and "/data" not in str(finding)
    (line,) = finding.lines
    assert line.text.startswith("Outlining the object (IoU, higher is better): mask 0.79")
    assert ", then cam 0.49" in line.text and line.mark == "clear"
    assert list_best(results) == ["mask"]
    two = write_headline(make({"mask": 0.8, "cam": 0.5}))
    assert two == "mask is clearly better than cam at outlining the object."


def test_a_tie_has_no_winner_and_no_mark() -> None:
    results = make({"mask": 0.505, "cam": 0.5, "gradient": 0.1})
    finding = write_finding(results)
    assert finding.headline == (
        "No explainer is clearly the best: the differences between the first ones may be chance."
    )
    assert finding.lines[0].mark == "chance" and list_best(results) == []
    few = write_finding(make({"mask": 0.505, "cam": 0.5}, images=10))
    assert few.headline.startswith("With 10 images, no explainer is clearly the best")
    assert "So few images show only large differences." in few.certainty


def test_intervals_that_overlap_may_still_differ_on_the_same_images() -> None:
    results = make({"mask": 0.53, "cam": 0.5}, spread=0.01)
    low, high = results.rows
    assert low.ci95[0] < high.ci95[1]
    assert write_headline(results).startswith("mask is clearly better than cam")


def test_a_baseline_never_wins_and_is_a_warning() -> None:
    results = make({"cam": 0.5, "gradient": 0.3, "centre_box": 0.9, "true_box": 1.0})
    finding = write_finding(results)
    assert finding.headline == (
        "Every explainer does worse than a box in the middle of the image (centre_box), "
        "which never looks at the classifier."
    )
    explainers, blind = finding.lines
    assert explainers.mark == "clear" and "centre_box" not in explainers.text
    assert blind.mark == "warning" and blind.text.endswith("better than every explainer.")
    assert "without looking at the classifier: centre_box 0.89" in blind.text
    assert list_best(results) == []  # no mark on a row that is worse than another
    even = write_finding(make({"cam": 0.5, "gradient": 0.49, "centre_box": 0.5}, spread=0.2))
    assert even.headline == (
        "No explainer is clearly better than a box in the middle of the image (centre_box), "
        "which never looks at the classifier."
    )
    beside = write_finding(make({"cam": 0.8, "gradient": 0.3, "centre_box": 0.81}, spread=0.2))
    assert beside.headline.startswith("cam is clearly better than gradient")
    assert "may do as well at outlining the object: a box in the middle" in beside.certainty


def measure_tasks(tasks: dict[str, dict[str, float]], spread: float = 0.05) -> ComparisonResults:
    """Results with other means on each metric."""
    parts = [make(means, metrics=(metric,), spread=spread) for metric, means in tasks.items()]
    rows = tuple(row for part in parts for row in part.rows)
    scores = {key: values for part in parts for key, values in part.scores.items()}
    edges = {**parts[0].explainers, "edges": "Edges()"}
    needs = {**parts[0].needs, "edges": ()}
    return replace(parts[0], rows=rows, scores=scores, explainers=edges, needs=needs)


def test_a_baseline_that_is_better_at_some_task_stands_in_the_headline() -> None:
    ahead = {"cam": 0.6, "gradient": 0.3, "edges": 0.1, "centre_box": 0.1}
    tie = {"cam": 0.301, "gradient": 0.3, "edges": 0.8, "centre_box": 0.1}
    tail = (
        "At outlining the object, every explainer does worse than the edges of the image (edges), "
        "which never look at the classifier."
    )
    results = measure_tasks({"iauc": ahead, "iou": tie})
    finding = write_finding(results)
    assert finding.headline == (
        f"cam is clearly better than gradient at finding the pixels that bring the class back. "
        f"{tail}"
    )
    assert write_headline(results) == finding.headline and str(results).endswith(tail)
    assert tail in results.to_markdown() and tail in results._repr_html_()
    assert "no clear best at outlining the object." in finding.certainty
    assert [line.mark for line in finding.lines] == ["clear", "chance", "warning"]
    lost = write_headline(measure_tasks({"iauc": {**ahead, "cam": 0.301}, "iou": tie}))
    assert lost.startswith("No explainer is clearly the best: ") and lost.endswith(f". {tail}")
    other = {"cam": 0.6, "gradient": 0.3, "edges": 0.1, "centre_box": 0.9}
    two = write_headline(measure_tasks({"iauc": ahead, "iou": tie, "pointing_game": other}))
    assert two.endswith(
        "At pointing at the object, every explainer does worse than a box in the middle of the "
        f"image (centre_box), which never looks at the classifier. {tail}"
    )
    each = write_headline(measure_tasks({"pointing_game": other, "iou": tie}))
    assert each.startswith("No explainer is clearly better than all others and than all baselines.")
    assert "At pointing at the object, every" in each and each.endswith(tail)
    both = write_headline(measure_tasks({"pointing_game": tie, "iou": tie}))
    assert both == (
        "Every explainer does worse than the edges of the image (edges), which never look at the "
        "classifier."
    )


def test_a_baseline_that_one_explainer_does_not_beat_is_named_with_its_task() -> None:
    good, bad = {"cam": 0.6, "edges": 0.1}, {"cam": 0.3, "edges": 0.8}
    assert write_headline(measure_tasks({"iauc": good, "iou": bad})) == (
        "cam is clearly better than explanations without the classifier at finding the pixels that "
        "bring the class back. At outlining the object, cam does worse than the edges of the image "
        "(edges), which never look at the classifier."
    )
    assert write_headline(measure_tasks({"iou": bad})) == (
        "cam is not clearly better than the edges of the image (edges), which never look at the "
        "classifier. At outlining the object, cam does worse than edges."
    )
    mixed = {"iou": {**bad, "centre_box": 0.1}, "iauc": {"cam": 0.3, "edges": 0.1}}
    mixed["iauc"]["centre_box"] = 0.8
    assert write_headline(measure_tasks(mixed)).startswith(
        "cam is not clearly better than explanations without the classifier. "
    )


def test_each_chip_judges_the_pair_before_it() -> None:
    ahead = {"cam": 0.9, "gradient": 0.3, "edges": 0.1}
    even = {"cam": 0.301, "gradient": 0.3, "edges": 0.305}
    finding = write_finding(measure_tasks({"iauc": ahead, "pointing_game": even}, spread=0.2))
    pair, blind = finding.lines[:2]
    assert pair.mark == "chance" and "edges" not in pair.text and ", then " in pair.text
    assert blind.mark == "chance" and "gradient" not in blind.text
    start, _, rest = blind.text.partition(": edges 0.")
    assert start == "Pointing at the object without looking at the classifier"
    assert ", against cam 0." in rest
    assert finding.certainty.endswith(
        "Yet something that never looks at the classifier may do as well at pointing at the "
        "object: the edges of the image (edges)."
    )


def test_results_are_short_as_text_for_a_prompt() -> None:
    results = make({"mask": 0.8, "cam": 0.5})
    assert repr(results) == "ComparisonResults(timm/tiny, 2 rows)"
    assert "cam" in str(results)


def test_baselines_and_the_truth_stand_apart() -> None:
    results = make({"true_box": 1.0, "centre_box": 0.9, "whole_box": 0.2, "cam": 0.5, "mask": 0.6})
    groups = [(line.name, line.group) for line in build_ranking(results)]
    assert groups == [
        ("mask", "explainer"),
        ("cam", "explainer"),
        ("centre_box", "baseline"),
        ("whole_box", "baseline"),
        ("true_box", "truth"),
    ]
    own = replace(results, explainers={**results.explainers, "centre_box": "my_own.Method()"})
    assert build_ranking(own)[0].name == "centre_box"  # what it looks at is not known


def test_one_explainer_is_compared_with_baselines_only() -> None:
    alone = write_finding(make({"cam": 0.5}))
    assert alone.headline == "cam was measured alone, so there is nothing to compare it with."
    assert alone.lines[0].mark == "plain" and "Clearly" not in alone.certainty
    ahead = write_headline(make({"cam": 0.5, "centre_box": 0.2}))
    assert ahead == (
        "cam is clearly better than explanations without the classifier at outlining the object."
    )
    behind = write_headline(make({"cam": 0.5, "centre_box": 0.6}))
    assert behind.startswith("cam is not clearly better than a box in the middle of the image")
    assert write_headline(make({"centre_box": 0.6, "true_box": 0.9})) == (
        "Only baselines were measured, which never look at the classifier."
    )


def test_what_failed_and_what_is_constant_is_told() -> None:
    results = replace(
        make({"mask": 0.8, "cam": 0.5}), failed={"rise": "out of memory"}, constant={"cam": 1}
    )
    texts = [line.text for line in write_finding(results).lines if line.mark == "warning"]
    assert texts == [
        "rise could not be measured: out of memory",
        "Constant maps, which show nothing: cam on 1 image.",
    ]
    boxed = make({"mask": 0.8, "cam": 0.5, "centre_box": 0.2, "true_box": 0.9})
    by_design = replace(boxed, constant={"centre_box": 40, "true_box": 1})
    assert "Constant" not in write_headline(by_design)
    nothing = replace(results, rows=(), scores={}, constant={})
    assert write_headline(nothing) == "Nothing was measured."


def test_one_image_says_nothing() -> None:
    results = make({"mask": 0.8, "cam": 0.5, "gradient": 0.2}, images=1)
    finding = write_finding(results)
    assert finding.headline == "One image cannot tell which of 3 explainers is the best."
    assert "1 image of" in finding.certainty and "p <" not in finding.certainty
    assert "(one image)" in finding.lines[0].text and list_best(results) == []


def test_without_scores_nothing_is_called_the_best() -> None:
    results = replace(make({"mask": 0.8, "cam": 0.5}), scores={})
    assert write_headline(results).startswith("The values could not be tested")
    assert write_finding(results).lines[0].mark == "plain" and list_best(results) == []


def test_an_interval_without_length_is_said_in_words() -> None:
    results = make({"mask": 0.8, "cam": 0.5})
    rows = tuple(replace(row, value=1.0, ci95=(1.0, 1.0)) for row in results.rows)
    (line,) = write_finding(replace(results, rows=rows)).lines
    assert "mask 1.000 (the same on all 40 images)" in line.text


def test_several_metrics_are_counted_or_named() -> None:
    metrics = ("iou", "pointing_game", "localisation_error", "dauc")
    means = {"mask": 0.8, "cam": 0.5, "gradient": 0.4}
    results = make(means, metrics=metrics[:2])
    assert write_headline(results) == (
        "mask is clearly the best of 3 explainers at pointing at the object and at outlining "
        "the object."
    )
    assert write_headline(make(means, metrics=("energy",))).endswith(" 3 explainers on energy.")
    two = write_headline(make(means, metrics=("iou", "localisation_error")))
    assert two == (
        "gradient is clearly the best of 3 explainers at finding the box of the object; "
        "mask at outlining the object."
    )
    higher = ("iou", "pointing_game", "iauc", "energy", "ncc")
    assert write_headline(make(means, metrics=higher)).startswith("mask is clearly the best of 3")
    four = replace(make(means, metrics=(*higher[:3], "dauc")))
    assert "at pointing at the object, at finding the pixels" in write_headline(four)


@pytest.mark.parametrize("seed", range(8))
def test_no_mark_stands_on_a_row_that_another_one_may_beat(seed: int) -> None:
    generator = np.random.default_rng(seed)
    names = ("a", "b", "c", "centre_box", "true_box")
    means = dict(zip(names, generator.uniform(0.4, 0.6, 5).tolist(), strict=True))
    results = make(means, images=12, spread=0.1, metrics=("iou", "localisation_error"))
    values = {(row.explainer, row.metric): row.value for row in results.rows}
    for line in build_ranking(results):
        for metric, cell in line.cells.items():
            if not cell.best:
                continue
            assert line.group == "explainer"
            leader = find_leader(results, metric)
            assert leader is not None and leader.row.explainer == line.name
            sign = -1 if metric == "localisation_error" else 1
            rivals = set(names) - {line.name, "true_box"}
            assert all(
                sign * values[line.name, metric] >= sign * values[other, metric] for other in rivals
            )
            assert all(
                sign * values[line.name, metric] > sign * values[other, metric]
                and leader.pairs[other].p < 0.05
                for other in {"a", "b", "c"} - {line.name}
            )
