"""Paired differences: the test against all signs, the adjustment against its definition."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from apercu.evaluation import ComparisonKey, ComparisonResults
from apercu.evaluation.ranking import compute_paired_differences
from apercu.statistics import bootstrap_interval

SUBJECT = ComparisonKey("timm/tiny", "f00d", "photographs", 8, "labels", "0", {})


def results(scores: dict[str, dict[str, float]]) -> ComparisonResults:
    by_row = {(name, "iou"): values for name, values in scores.items()}
    return ComparisonResults(SUBJECT, environment={}, scores=by_row)


def test_the_p_value_is_the_share_of_all_signs_that_go_as_far() -> None:
    values = np.random.default_rng(3).normal(0.4, 1, 10)
    means = [abs(np.dot(signs, values)) / 10 for signs in product((-1, 1), repeat=10)]
    exact = np.mean(np.array(means) >= abs(values.mean()) - 1e-12)
    assert sign_flip_test(values, seed=0) == pytest.approx(exact, abs=4 * (0.25 / FLIPS) ** 0.5)


def test_equal_scores_do_not_differ_and_a_constant_lead_does() -> None:
    assert sign_flip_test(np.zeros(30), seed=0) == 1
    assert sign_flip_test(np.full(30, 0.1), seed=0) == pytest.approx(1 / (FLIPS + 1))


def test_chance_alone_is_significant_as_often_as_the_level_says() -> None:
    generator = np.random.default_rng(0)
    found = [sign_flip_test(generator.normal(size=20), seed) <= 0.05 for seed in range(400)]
    assert 0.02 < np.mean(found) < 0.085


def test_adjusted_values_never_fall_and_never_exceed_one() -> None:
    p = {"a": 0.001, "b": 0.4, "c": 0.02, "d": 0.7}
    assert adjust_holm(p) == pytest.approx({"a": 0.004, "c": 0.06, "b": 0.8, "d": 0.8})
    assert adjust_holm({}) == {}


def test_only_images_that_both_have_are_compared() -> None:
    found = compute_paired_differences(
        results(
            {
                "mask": {"a": 0.5, "b": 0.7, "c": 0.9},
                "cam": {"b": 0.4, "c": 0.5, "d": 0.0},
                "edges": {"d": 1.0},
            }
        ),
        "iou",
        "mask",
    )
    assert set(found) == {"cam"}
    assert found["cam"].n == 2
    assert found["cam"].difference == pytest.approx(-0.35)
    assert found["cam"].ci95 == bootstrap_interval(np.array([0.4 - 0.7, 0.5 - 0.9]), 0)


def test_a_metric_that_the_reference_lacks_has_no_differences() -> None:
    assert compute_paired_differences(results({"cam": {"a": 1.0}}), "iou", "mask") == {}
