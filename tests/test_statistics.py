"""Intervals, tests and correlations beside scipy's, and the equations that define them."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, norm, spearmanr

from apercu.statistics import (
    FLIPS,
    adjust_holm,
    bootstrap_interval,
    median_interval,
    sign_flip_test,
    spearman,
    wilson_interval,
)


@pytest.mark.parametrize(("right", "count"), [(0, 1), (0, 9), (9, 9), (3, 10), (149, 300)])
def test_the_interval_of_a_fraction_is_wilson_s(right: int, count: int) -> None:
    values = np.arange(count) < right
    low, high = wilson_interval(values.astype(float))
    expected = binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert 0 <= low <= right / count <= high <= 1 and low < high
    for end in (low, high):  # as many standard errors away as the quantile, by the end's own
        if 0 < end < 1:
            errors = abs(right / count - end) / (end * (1 - end) / count) ** 0.5
            assert errors == pytest.approx(norm.ppf(0.975))


def test_the_bootstrap_interval_is_the_normal_one_for_many_values() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 4000)
    low, high = bootstrap_interval(values, seed=0)
    half = 1.96 * values.std() / np.sqrt(4000)
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.006)
    assert bootstrap_interval(values, seed=0) == (low, high)
    assert bootstrap_interval(np.array([2.0]), seed=0) == (2.0, 2.0)


def test_the_interval_of_a_median_holds_it_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        median, (low, high) = median_interval(generator.normal(size=60))
        assert low <= median <= high
        hits.append(low <= 0 <= high)
    assert 0.92 < np.mean(hits) < 0.98
    assert median_interval(np.array([4.0])) == (4.0, (4.0, 4.0))


def test_rank_correlation_is_scipy_s_and_ties_share_their_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(0, 9, (3, 50), generator=generator).float()
    second = torch.rand(3, 50, generator=generator) + first
    second[2] = 1.0
    expected = [spearmanr(first[row], second[row]).statistic for row in range(2)]
    torch.testing.assert_close(spearman(first, second), torch.tensor([*expected, 0.0]).float())


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
    result = [sign_flip_test(generator.normal(size=20), seed) <= 0.05 for seed in range(400)]
    assert 0.02 < np.mean(result) < 0.085


def test_adjusted_values_never_fall_and_never_exceed_one() -> None:
    p = {"a": 0.001, "b": 0.4, "c": 0.02, "d": 0.7}
    assert adjust_holm(p) == pytest.approx({"a": 0.004, "c": 0.06, "b": 0.8, "d": 0.8})
    assert adjust_holm({}) == {}
