"""Intervals of shares beside scipy's and the equation that defines them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest, norm

from apercu.statistics import wilson_interval


@pytest.mark.parametrize(("right", "count"), [(0, 1), (0, 9), (9, 9), (3, 10), (149, 300)])
def test_the_interval_of_a_share_is_wilson_s(right: int, count: int) -> None:
    values = np.arange(count) < right
    low, high = wilson_interval(values.astype(float))
    theirs = binomtest(right, count).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((theirs.low, theirs.high), abs=1e-9)
    assert 0 <= low <= right / count <= high <= 1 and low < high
    for end in (low, high):  # as many standard errors away as the quantile, by the end's own
        if 0 < end < 1:
            errors = abs(right / count - end) / (end * (1 - end) / count) ** 0.5
            assert errors == pytest.approx(norm.ppf(0.975))
