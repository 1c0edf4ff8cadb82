"""From verdicts to rows, curves and warnings, by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from apercu.robustness.plan import NONE, Job, parse_attack
from apercu.robustness.report import choose_job_to_draw
from apercu.robustness.result_cache import AttackResult
from apercu.robustness.results import summarise
from apercu.robustness.rows import StressResults, StressRow

HONEST = Job(NONE, None, None, None)


def job(
    name: str, epsilon: float | None = None, behind: str | None = None, elsewhere: bool = False
) -> Job:
    return Job(name, epsilon, parse_attack(name), behind, elsewhere)


def verdicts(right: dict[str, Sequence[int]], **numbers: list[float]) -> AttackResult:
    shown = {name: [bool(one) for one in values] for name, values in right.items()}
    count = len(next(iter(shown.values())))
    sizes = {name: [0.1] * count for name in ("linf", "l2", "l0")}
    return AttackResult(top1=shown, top5=shown, **{**sizes, **numbers})


def summary(found: dict[Job, AttackResult]) -> StressResults:
    return summarise(found, {}, {}, 0)


def row_of(results: StressResults, job: Job, metric: str, behind: str = NONE) -> StressRow:
    (row,) = (
        row
        for row in results.rows
        if (row.attack, row.epsilon, row.filter, row.metric)
        == (job.name, job.epsilon, behind, metric)
    )
    return row


def test_images_that_were_wrong_before_are_not_averaged() -> None:
    attack = job("sparse_evo")
    found = verdicts(
        {NONE: [1, 0, 0, 0]},
        l0=[0.2, 0.4, 0.6, 9.0],
        rank_correlation=[0.5, 0.3, 0.1, -9.0],
        queries=[10.0, 20.0, 60.0, 900.0],
    )
    results = summary({HONEST: verdicts({NONE: [1, 1, 1, 0]}), attack: found})
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
    none = summary({HONEST: verdicts({NONE: [0, 0]}), attack: verdicts({NONE: [0, 0]})})
    assert {row.metric for row in none.rows} == {"top1", "top5", "auac"}


def test_a_map_counts_where_the_class_stayed() -> None:
    attack = job("map_pgd", 0.1)
    found = verdicts({NONE: [1, 1, 0, 1]}, rank_correlation=[0.2, 0.4, -1.0, -1.0])
    results = summary({HONEST: verdicts({NONE: [1, 1, 1, 0]}), attack: found})
    moved, stayed = (row_of(results, attack, one) for one in ("map_rank_correlation", "stayed"))
    assert (moved.value, moved.n) == (pytest.approx(0.3), 2)
    assert (stayed.value, stayed.n) == (pytest.approx(2 / 3), 3)
    assert not results.curves
    assert "success" not in {row.metric for row in results.rows}
    lost = verdicts({NONE: [0, 0]}, rank_correlation=[0.2, 0.4])
    left = summary({HONEST: verdicts({NONE: [1, 1]}), attack: lost})
    assert row_of(left, attack, "stayed").value == 0
    assert "map_rank_correlation" not in {row.metric for row in left.rows}


def test_no_share_is_certain() -> None:
    attack = job("fgsm", 0.1)
    results = summary({HONEST: verdicts({NONE: [1] * 8}), attack: verdicts({NONE: [0] * 8})})
    for metric, ends in (("top1", (0, 0.324)), ("success", (0.676, 1))):
        assert row_of(results, attack, metric).ci95 == pytest.approx(ends, abs=1e-3)
    assert row_of(results, HONEST, "top5").ci95 == pytest.approx((0.676, 1), abs=1e-3)


def test_curves_begin_at_the_honest_accuracy() -> None:
    attacks = [job("pgd", epsilon) for epsilon in (0.02, 0.04)]
    right = [1, 1, 1, 1, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]
    shown = [
        verdicts({NONE: one}, linf=[size] * 5)
        for one, size in zip(right, (0.0, 0.02, 0.04), strict=True)
    ]
    results = summary(dict(zip([HONEST, *attacks], shown, strict=True)))
    (curve,) = results.curves
    assert curve.sizes == pytest.approx((0.0, 0.02, 0.04))
    assert curve.accuracy == pytest.approx((0.8, 0.4, 0.0))
    assert row_of(results, job("pgd"), "auac").value == pytest.approx(0.4)
    (single,) = summary({HONEST: shown[0], attacks[1]: shown[2]}).curves
    assert single.sizes == pytest.approx((0.0, 0.04))
    assert single.accuracy == pytest.approx((0.8, 0.0))


def test_curves_are_against_the_size_that_was_reached() -> None:
    bare, behind = job("pgd", 0.1), job("pgd", 0.1, behind="jpeg")
    honest = verdicts({NONE: [1, 1, 0], "jpeg": [1, 1, 0]})
    short = verdicts({NONE: [1, 0, 0]}, linf=[0.0, 0.04, 9.0])  # the last was wrong before
    far = verdicts({"jpeg": [0, 0, 0]}, linf=[0.1, 0.1, 9.0])
    curves = summary({HONEST: honest, bare: short, behind: far}).curves
    found = {curve.knowledge: curve for curve in curves}
    assert found["naive"].sizes == pytest.approx((0, 0.02, 0.1))  # who could go on, does no better
    assert found["naive"].accuracy == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    assert found["adaptive"].sizes == pytest.approx((0, 0.1))


def test_an_attack_that_has_nothing_to_climb_is_told() -> None:
    attack = job("pgd", 8 / 255)
    found = {HONEST: verdicts({NONE: [1, 1]}), attack: verdicts({NONE: [1, 0]})}
    assert not summary(found).warnings
    found[attack].stuck.extend([True, False])
    (line,) = summary(found).warnings
    assert line.startswith("pgd at 8/255 (naive) finds no slope at 1 of 2 images")
    assert "; climb the margin (margin_pgd), or ask for decisions alone" in line
    found[job("margin_pgd", 8 / 255)] = verdicts({NONE: [1, 0]}, stuck=[1, 0])
    for line in summary(found).warnings:
        assert "and does not fool with them; ask for decisions alone" in line
    knowing = job("pgd", 8 / 255, behind="jpeg")
    found = {HONEST: verdicts({"jpeg": [1, 1]}), knowing: verdicts({"jpeg": [1, 0]})}
    found[knowing].stuck.extend([True, False])
    (line,) = summary(found).warnings
    assert line.startswith("behind jpeg pgd at 8/255 (adaptive) finds no slope at 1 of 2")


def test_the_smallest_changes_have_a_curve_and_an_area_too() -> None:
    bare, behind = job("deepfool"), job("deepfool", behind="jpeg")
    honest = verdicts({NONE: [1, 1, 1, 0], "jpeg": [1, 1, 1, 0]})
    naive = verdicts({NONE: [0, 0, 1, 0], "jpeg": [1, 1, 1, 0]}, l2=[0.1, 0.2, 0.9, 0.0])
    knowing = verdicts({"jpeg": [0, 0, 0, 0]}, l2=[0.2, 0.3, 0.4, 0.0])
    results = summary({HONEST: honest, bare: naive, behind: knowing})
    curves = {(one.filter, one.knowledge): one for one in results.curves}
    assert len({one.sizes[-1] for one in curves.values()}) == 1  # areas that can be compared
    for one in curves.values():
        assert one.sizes[0] == 0 and one.accuracy[0] == pytest.approx(0.75)
    middle = curves[NONE, "naive"]
    assert np.interp(0.15, middle.sizes, middle.accuracy) == pytest.approx(0.5)
    areas = {row.knowledge: row.value for row in results.rows if row.metric == "auac"}
    assert 0 < areas["adaptive"] < areas["naive"] < 0.75 + 1e-9


SHARES = [1] * 8 + [0] * 2


def test_every_attack_that_another_leaves_behind_is_told() -> None:
    found = {
        HONEST: verdicts({NONE: [1] * 10}),
        job("fgsm", 0.1): verdicts({NONE: SHARES}),
        job("pgd:steps=50", 0.1): verdicts({NONE: [1] * 7 + [0] * 3}),
        job("square", 0.1): verdicts({NONE: [1] * 1 + [0] * 9}),
        job("pgd:norm=l2", 0.1): verdicts({NONE: SHARES}),
        job("pgd", 0.2): verdicts({NONE: [0] * 10}),
        job("map_pgd", 0.1): verdicts({NONE: [0] * 10}),
        job("mult"): verdicts({NONE: SHARES}),
        job("mult:ratio=2"): verdicts({NONE: [0] * 10}),
    }
    assert summary(found).warnings == (
        "fgsm at 25.5/255 (naive) flatters: it leaves 80.0% right, "
        "square at 25.5/255 (naive) 10.0%",
        "pgd:steps=50 at 25.5/255 (naive) flatters: it leaves 70.0% right, "
        "square at 25.5/255 (naive) 10.0%",
    )


def test_images_made_elsewhere_show_hidden_gradients() -> None:
    found = {
        HONEST: verdicts({"jpeg": [1] * 10}),
        job("pgd", 0.1, "jpeg"): verdicts({"jpeg": SHARES}),
        job("pgd", 0.1, elsewhere=True): verdicts({"jpeg": [0] * 10}),
    }
    assert summary(found).warnings == (
        "behind jpeg pgd at 25.5/255 (adaptive) flatters: it leaves 80.0% right, "
        "pgd at 25.5/255 (transfer) 0.0%",
    )


@pytest.mark.parametrize("bare", [True, False])
def test_a_filter_that_wins_against_the_naive_alone(bare: bool) -> None:
    also = {NONE: [0] * 10} if bare else {}
    found = {
        HONEST: verdicts({NONE: [1] * 10, "jpeg": [1] * 10}),
        job("pgd", 0.1): verdicts({**also, "jpeg": SHARES}),
        job("pgd", 0.1, "jpeg"): verdicts({"jpeg": [1] + [0] * 9}),
    }
    assert summary(found).warnings == (
        "jpeg wins only against an attacker who does not know of it: pgd at 25.5/255 (naive) "
        "leaves 80.0% right of 100.0%, through the filter 10.0%",
    )
    found[job("pgd", 0.1, "jpeg")] = verdicts({"jpeg": SHARES})
    assert not summary(found).warnings


def test_what_is_drawn_is_an_attack_on_the_classifier_itself() -> None:
    naive = [job("fgsm", 0.1), job("pgd", 0.2), job("pgd", 0.1)]
    adaptive = [job("pgd", epsilon, "jpeg") for epsilon in (0.2, 0.3)]
    other = job("pgd", 0.9, elsewhere=True)
    assert choose_job_to_draw([HONEST, *naive, *adaptive, other]) == naive[1]
    assert choose_job_to_draw([HONEST, *adaptive, other]) == adaptive[1]
    assert choose_job_to_draw([HONEST, other]) == HONEST
    assert choose_job_to_draw([HONEST, naive[1], job("square", 0.2)]) == naive[1]  # a quick one
