"""Rows, curves and warnings from results that are written by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import TypeAdapter

from apercu.filters import NONE
from apercu.pages import Finding
from apercu.robustness.detection.benchmark import DetectionRow, DetectionRows
from apercu.robustness.jobs import AttackResult, Job, choose_job_to_draw
from apercu.robustness.plan import parse_attack
from apercu.robustness.report import write_finding
from apercu.robustness.results import StressResults, StressRow, format_warning, summarise
from apercu.statistics import wilson_interval

CLEAN = Job(NONE, None, None, None)


def job(
    name: str,
    epsilon: float | None = None,
    known_filter: str | None = None,
    on_surrogate: bool = False,
) -> Job:
    return Job(name, epsilon, parse_attack(name), known_filter, on_surrogate)


def attack_result(correct: dict[str, Sequence[int]], **numbers: list[float]) -> AttackResult:
    flags = {name: [bool(value) for value in values] for name, values in correct.items()}
    count = len(next(iter(flags.values())))
    sizes = {name: [0.1] * count for name in ("linf", "l2", "l0")}
    return AttackResult(top1=flags, top5=flags, **{**sizes, **numbers})


def summary(results: dict[Job, AttackResult]) -> StressResults:
    return summarise(results, {}, {}, 0)


def row_of(results: StressResults, job: Job, metric: str, filter: str = NONE) -> StressRow:
    (row,) = (
        row
        for row in results.rows
        if (row.attack, row.epsilon, row.filter, row.metric)
        == (job.name, job.epsilon, filter, metric)
    )
    return row


def test_images_that_were_wrong_before_are_not_averaged() -> None:
    attack = job("sparse_evo")
    result = attack_result(
        {NONE: [1, 0, 0, 0]},
        l0=[0.2, 0.4, 0.6, 9.0],
        rank_correlation=[0.5, 0.3, 0.1, -9.0],
        queries=[10.0, 20.0, 60.0, 900.0],
    )
    results = summary({CLEAN: attack_result({NONE: [1, 1, 1, 0]}), attack: result})
    for metric, value in (
        ("norm", 0.4),
        ("map_rank_correlation", 0.3),
        ("success", 2 / 3),
        ("queries", 30),
        ("queries_median", 20),
    ):
        row = row_of(results, attack, metric)
        assert (row.value, row.n) == (pytest.approx(value), 3), metric
        assert row.ci95[0] <= row.value <= row.ci95[1]
    assert row_of(results, attack, "top1").n == 4
    none = summary({CLEAN: attack_result({NONE: [0, 0]}), attack: attack_result({NONE: [0, 0]})})
    assert {row.metric for row in none.rows} == {"top1", "top5", "auac"}


def test_a_map_counts_where_the_class_stayed() -> None:
    attack = job("map_pgd", 0.1)
    result = attack_result({NONE: [1, 1, 0, 1]}, rank_correlation=[0.2, 0.4, -1.0, -1.0])
    results = summary({CLEAN: attack_result({NONE: [1, 1, 1, 0]}), attack: result})
    moved, stayed = (row_of(results, attack, one) for one in ("map_rank_correlation", "stayed"))
    assert (moved.value, moved.n) == (pytest.approx(0.3), 2)
    assert (stayed.value, stayed.n) == (pytest.approx(2 / 3), 3)
    assert not results.curves
    assert "success" not in {row.metric for row in results.rows}
    lost = attack_result({NONE: [0, 0]}, rank_correlation=[0.2, 0.4])
    left = summary({CLEAN: attack_result({NONE: [1, 1]}), attack: lost})
    assert row_of(left, attack, "stayed").value == 0
    assert "map_rank_correlation" not in {row.metric for row in left.rows}


def test_no_fraction_is_certain() -> None:
    attack = job("fgsm", 0.1)
    results = summary(
        {CLEAN: attack_result({NONE: [1] * 8}), attack: attack_result({NONE: [0] * 8})}
    )
    for metric, ends in (("top1", (0, 0.324)), ("success", (0.676, 1))):
        assert row_of(results, attack, metric).ci95 == pytest.approx(ends, abs=1e-3)
    assert row_of(results, CLEAN, "top5").ci95 == pytest.approx((0.676, 1), abs=1e-3)


def test_curves_begin_at_the_clean_accuracy() -> None:
    attacks = [job("pgd", epsilon) for epsilon in (0.02, 0.04)]
    correct = [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]
    results_by_size = [
        attack_result({NONE: one}, linf=[size] * 5)
        for one, size in zip(correct, (0.0, 0.02, 0.04), strict=True)
    ]
    results = summary(dict(zip([CLEAN, *attacks], results_by_size, strict=True)))
    (curve,) = results.curves
    assert curve.sizes == pytest.approx((0.0, 0.02, 0.04))
    assert curve.accuracy == pytest.approx((0.8, 0.4, 0.0))
    assert row_of(results, job("pgd"), "auac").value == pytest.approx(0.4)
    (single,) = summary({CLEAN: results_by_size[0], attacks[1]: results_by_size[2]}).curves
    assert single.sizes == pytest.approx((0.0, 0.04))
    assert single.accuracy == pytest.approx((0.8, 0.0))


def test_curves_are_over_the_size_of_the_changes() -> None:
    bare, behind = job("pgd", 0.1), job("pgd", 0.1, known_filter="jpeg")
    clean = attack_result({NONE: [1, 1, 0], "jpeg": [1, 1, 0]})
    short = attack_result({NONE: [1, 0, 0]}, linf=[0.0, 0.04, 9.0])  # the last was wrong before
    far = attack_result({"jpeg": [0, 0, 0]}, linf=[0.1, 0.1, 9.0])
    curves = summary({CLEAN: clean, bare: short, behind: far}).curves
    results = {curve.knowledge: curve for curve in curves}
    assert results["naive"].sizes == pytest.approx((0, 0.02, 0.1))  # a larger budget does no better
    assert results["naive"].accuracy == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert results["adaptive"].sizes == pytest.approx((0, 0.1))


def test_an_attack_without_gradients_is_warned_of() -> None:
    attack = job("pgd", 8 / 255)
    results = {CLEAN: attack_result({NONE: [1, 1]}), attack: attack_result({NONE: [1, 0]})}
    assert not summary(results).warnings
    results[attack].stuck.extend([True, False])
    (line,) = summary(results).warnings
    assert line.startswith("pgd at 8/255 (naive) finds no gradient at 1 of 2 images")
    assert "; use the margin (margin_pgd), or use an attack that needs only decisions" in line
    results[job("margin_pgd", 8 / 255)] = attack_result({NONE: [1, 0]}, stuck=[1, 0])
    for line in summary(results).warnings:
        assert "images, which it does not fool; use an attack that needs only decisions" in line
    knowing = job("pgd", 8 / 255, known_filter="jpeg")
    results = {CLEAN: attack_result({"jpeg": [1, 1]}), knowing: attack_result({"jpeg": [1, 0]})}
    results[knowing].stuck.extend([True, False])
    (line,) = summary(results).warnings
    assert line.startswith("behind jpeg pgd at 8/255 (adaptive) finds no gradient at 1 of 2")


def test_the_smallest_changes_have_a_curve_and_an_area_too() -> None:
    bare, behind = job("deepfool"), job("deepfool", known_filter="jpeg")
    clean = attack_result({NONE: [1, 1, 1, 0], "jpeg": [1, 1, 1, 0]})
    naive = attack_result({NONE: [0, 0, 1, 0], "jpeg": [1, 1, 1, 0]}, l2=[0.1, 0.2, 0.9, 0.0])
    knowing = attack_result({"jpeg": [0, 0, 0, 0]}, l2=[0.2, 0.3, 0.4, 0.0])
    results = summary({CLEAN: clean, bare: naive, behind: knowing})
    curves = {(one.filter, one.knowledge): one for one in results.curves}
    assert len({one.sizes[-1] for one in curves.values()}) == 1  # areas that can be compared
    for one in curves.values():
        assert one.sizes[0] == 0 and one.accuracy[0] == pytest.approx(0.75)
    middle = curves[NONE, "naive"]
    assert np.interp(0.15, middle.sizes, middle.accuracy) == pytest.approx(0.5)
    areas = {row.knowledge: row.value for row in results.rows if row.metric == "auac"}
    assert 0 < areas["adaptive"] < areas["naive"] < 0.75 + 1e-9


EIGHT_OF_TEN = [1] * 8 + [0] * 2


def test_every_attack_that_is_weaker_than_another_is_warned_of() -> None:
    results = {
        CLEAN: attack_result({NONE: [1] * 10}),
        job("fgsm", 0.1): attack_result({NONE: EIGHT_OF_TEN}),
        job("pgd:steps=50", 0.1): attack_result({NONE: [1] * 7 + [0] * 3}),
        job("square", 0.1): attack_result({NONE: [1] * 1 + [0] * 9}),
        job("pgd:norm=l2", 0.1): attack_result({NONE: EIGHT_OF_TEN}),
        job("pgd", 0.2): attack_result({NONE: [0] * 10}),
        job("map_pgd", 0.1): attack_result({NONE: [0] * 10}),
        job("mult"): attack_result({NONE: EIGHT_OF_TEN}),
        job("mult:ratio=2"): attack_result({NONE: [0] * 10}),
    }
    assert summary(results).warnings == (
        "fgsm at 25.5/255 (naive) flatters: it leaves 80.0% right, "
        "square at 25.5/255 (naive) 10.0%",
        "pgd:steps=50 at 25.5/255 (naive) flatters: it leaves 70.0% right, "
        "square at 25.5/255 (naive) 10.0%",
    )


def test_images_made_against_a_surrogate_show_hidden_gradients() -> None:
    results = {
        CLEAN: attack_result({"jpeg": [1] * 10}),
        job("pgd", 0.1, "jpeg"): attack_result({"jpeg": EIGHT_OF_TEN}),
        job("pgd", 0.1, on_surrogate=True): attack_result({"jpeg": [0] * 10}),
    }
    assert summary(results).warnings == (
        "behind jpeg pgd at 25.5/255 (adaptive) flatters: it leaves 80.0% right, "
        "pgd at 25.5/255 (transfer) 0.0%",
    )


@pytest.mark.parametrize("bare", [True, False])
def test_a_filter_that_wins_against_the_naive_alone(bare: bool) -> None:
    also = {NONE: [0] * 10} if bare else {}
    results = {
        CLEAN: attack_result({NONE: [1] * 10, "jpeg": [1] * 10}),
        job("pgd", 0.1): attack_result({**also, "jpeg": EIGHT_OF_TEN}),
        job("pgd", 0.1, "jpeg"): attack_result({"jpeg": [1] + [0] * 9}),
    }
    assert summary(results).warnings == (
        "jpeg wins only against an attacker who does not know of it: pgd at 25.5/255 (naive) "
        "leaves 80.0% right of 100.0%, through the filter 10.0%",
    )
    assert format_warning(summary(results).warnings[0]).startswith(
        "jpeg helps only against an attacker who does not know of it: pgd at 25.5/255 leaves"
    )
    results[job("pgd", 0.1, "jpeg")] = attack_result({"jpeg": EIGHT_OF_TEN})
    assert not summary(results).warnings


def test_an_attack_on_the_classifier_itself_is_drawn() -> None:
    naive = [job("fgsm", 0.1), job("pgd", 0.2), job("pgd", 0.1)]
    adaptive = [job("pgd", epsilon, "jpeg") for epsilon in (0.2, 0.3)]
    other = job("pgd", 0.9, on_surrogate=True)
    assert choose_job_to_draw([CLEAN, *naive, *adaptive, other]) == naive[1]
    assert choose_job_to_draw([CLEAN, *adaptive, other]) == adaptive[1]
    assert choose_job_to_draw([CLEAN, other]) == CLEAN
    assert choose_job_to_draw([CLEAN, naive[1], job("square", 0.2)]) == naive[1]  # a quick one
    assert choose_job_to_draw([CLEAN, naive[0], job("map_pgd", 0.2)]) == naive[0]  # on the class


def test_a_notebook_shows_what_was_found_and_a_table() -> None:
    attack, knows = job("pgd", 8 / 255), job("pgd", 8 / 255, "jpeg")
    about = {"classifier": "timm/tiny", "images": "a & b", "targets": "labels"}
    outcomes = {
        CLEAN: attack_result({NONE: [1, 1, 1, 0], "jpeg": [1, 1, 0, 0]}),
        attack: attack_result({NONE: [0, 0, 0, 0], "jpeg": [1, 1, 0, 0]}),
        knows: attack_result({"jpeg": [1, 0, 0, 0]}),
    }
    results = summarise(outcomes, about, {}, 0)
    heads, *rows = results.table()
    assert heads == ("right images", "no filter", "jpeg")
    values = [[text.partition("\xa0")[0] for text in row] for row in rows]
    assert values == [
        ["no attack", "75.0", "50.0"],
        ["pgd at 8/255", "0.0", "50.0"],
        ["pgd at 8/255, attacker knows the filter", "", "25.0"],
    ]
    html = results._repr_html_()
    assert "a &amp; b" in html and html.count("<tr>") == 4 and "75.0" in html
    assert str(results).splitlines()[1] == "right images  no filter  jpeg"
    assert repr(results) == f"StressResults(timm/tiny, {len(results.rows)} rows)"


def test_detection_shows_a_table_in_a_notebook() -> None:
    key = "pgd", 8 / 255, "stability", "mahalanobis"
    rows = DetectionRows(
        [
            DetectionRow(*key, "auroc", 0.9, (0.8, 0.95), 12),
            DetectionRow(*key, "detected", 0.5, (0.3, 0.7), 12),
            DetectionRow(*key, "accuracy", 0.75, (0.6, 0.9), 12),
        ]
    )
    texts = "0.90 (0.80 to 0.95)", "0.50 (0.30 to 0.70)", "0.75 (0.60 to 0.90)"
    assert rows.table()[1:] == [("pgd at 8/255", "stability", "mahalanobis", "12", *texts)]
    assert "0.90 (0.80 to 0.95)" in rows._repr_html_()
    assert "0.90 (0.80 to 0.95)" in str(rows)
    assert repr(rows) == f"DetectionRows({len(rows)} rows)"


def stress_row(attack: str, value: float, **changes: object) -> StressRow:
    """The accuracy of the bare classifier on 100 images, but for what is said."""
    values = np.arange(100) < round(100 * value)
    fields = {"filter": NONE, "knowledge": "naive", "metric": "top1", "epsilon": 8 / 255}
    fields |= {"n": 100, "ci95": wilson_interval(values.astype(float)), "better": "higher"}
    return StressRow(attack=attack, value=value, **{**fields, **changes})  # type: ignore[arg-type]


ABOUT = {"classifier": "/models/net/card.json", "images": "/data/val", "targets": "labels"}


def find(*rows: StressRow, **about: str) -> Finding:
    clean = stress_row(NONE, 0.9, epsilon=None)
    return write_finding(StressResults({**ABOUT, **about}, (clean, *rows)))


def test_the_finding_says_what_the_strongest_attack_leaves() -> None:
    broken = find(stress_row("fgsm", 0.4), stress_row("pgd", 0.03))
    assert broken.headline == (
        "Changes that are hard to see fool the classifier net: it is right on 90 of 100 images, "
        "and on 3 after the strongest attack, pgd at 8/255."
    )
    assert "100 images of val" in broken.certainty and "/data" not in str(broken)
    assert [line.mark for line in broken.lines] == ["clear", "clear"]
    visible = find(stress_row("pgd", 0.03, epsilon=64 / 255))
    assert visible.headline.startswith("Attacks fool the classifier net")
    weaker = find(stress_row("pgd", 0.6), targets="top")
    assert weaker.headline.startswith("The classifier net keeps its prediction on 90 of 100 images")


def test_a_small_drop_may_be_chance() -> None:
    finding = find(stress_row("fgsm", 0.88))
    assert finding.headline.startswith(
        "No attack here clearly fools the classifier net: it is right"
    )
    assert [line.mark for line in finding.lines] == ["chance"]


def test_the_finding_without_attacks_and_of_a_wrong_classifier() -> None:
    assert (
        find().headline
        == "No attack was measured: the classifier net is right on 90 of 100 images."
    )
    moved = stress_row("map_pgd", 0.9)
    assert find(moved).headline.startswith("No attack was measured")
    clean = stress_row(NONE, 0.0, epsilon=None)
    wrong = write_finding(StressResults(ABOUT, (clean, stress_row("pgd", 0.0))))
    assert wrong.headline.endswith(
        "on 0 of 100 images before any attack, so no attack can show anything."
    )


def test_a_filter_that_only_helps_against_the_ignorant_is_a_warning() -> None:
    rows = [
        stress_row("pgd", 0.1),
        stress_row("pgd", 0.7, filter="jpeg"),
        stress_row("pgd", 0.1, filter="jpeg", knowledge="adaptive"),
        stress_row("pgd", 0.5, filter="bits"),
        stress_row("pgd", 0.5, filter="bits", knowledge="adaptive"),
    ]
    lines = [line for line in find(*rows).lines if line.text.startswith("Behind")]
    assert [line.mark for line in lines] == ["warning", "plain"]
    assert "only helps against attackers who do not know of it" in lines[0].text
    behind = [replace(row, filter="jpeg", knowledge="adaptive") for row in rows[:1]]
    clean = stress_row(NONE, 0.9, epsilon=None, filter="jpeg")
    only = write_finding(StressResults(ABOUT, (clean, *behind)))
    assert only.headline.startswith(
        "Changes that are hard to see fool the classifier net behind jpeg"
    )


def test_results_of_version_0_1_0_have_a_finding() -> None:
    path = Path(__file__).parents[1] / "golden" / "stress" / "results.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    rows = TypeAdapter(tuple[StressRow, ...]).validate_python(content.pop("rows"))
    finding = write_finding(StressResults(content, rows))
    assert "classifier" in finding.headline and "Measured on" in finding.certainty
