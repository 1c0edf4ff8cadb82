"""From the verdicts on every image to rows, curves and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from apercu.robustness.curves import compute_curves
from apercu.robustness.false_security import find_false_security
from apercu.robustness.plan import NONE, Job, find_objective_name, knowledge, norm_of
from apercu.robustness.result_cache import AttackResult
from apercu.robustness.rows import StressResults, StressRow
from apercu.statistics import NORMAL_QUANTILE, bootstrap_interval, wilson_interval

FRACTION_METRICS = ("top1", "top5", "success", "stayed")
"""Metrics that are shares of images."""
LOWER_IS_BETTER = ("success",)
"""Metrics of which less is better."""


def summarise(
    found: Mapping[Job, AttackResult],
    about: Mapping[str, Any],
    environment: Mapping[str, Any],
    seed: int,
) -> StressResults:
    """Means, curves, and which filters win only against those who do not know of them."""
    honest = next(verdicts for job, verdicts in found.items() if job.name == NONE)
    rows: list[StressRow] = []
    for job, verdicts in found.items():
        for behind in verdicts.top1:
            case = job.name, job.epsilon, behind, knowledge(job)
            for metric, values in _measure_job(job, verdicts, honest, behind):
                rows.append(_make_row(case, metric, values, seed))
    curves, areas = compute_curves(found, honest, seed)
    told = tuple(find_false_security(found))
    return StressResults(about, (*rows, *areas), tuple(curves), told, environment)


def _measure_job(
    job: Job, found: AttackResult, honest: AttackResult, behind: str
) -> Iterator[tuple[str, Float[np.ndarray, " images"]]]:
    """Every metric of a job behind a filter, with its values; none without images."""
    yield "top1", found.measure_correctness(behind)
    yield "top5", found.measure_correctness(behind, "top5")
    before = honest.measure_correctness(behind) > 0
    if job.attack is None or not before.any():
        return
    moves = find_objective_name(job.name) == "map"
    still = found.measure_correctness(behind)[before]
    yield ("stayed", still) if moves else ("success", 1 - still)
    yield "norm", found.get_values(norm_of(job))[before]
    if len(asked := found.get_values("queries")):
        yield "queries", asked[before]
        yield "queries_median", asked[before]
    seen = before & (found.measure_correctness(behind) > 0) if moves else before
    for metric, kept in (("map_rank_correlation", "rank_correlation"), ("map_iou", "overlap")):
        if len(values := found.get_values(kept)) and seen.any():
            yield metric, values[seen]


def _make_row(
    case: tuple[str, float | None, str, str],
    metric: str,
    values: Float[np.ndarray, " images"],
    seed: int,
) -> StressRow:
    better, value = "lower" if metric in LOWER_IS_BETTER else "higher", float(values.mean())
    if metric == "queries_median":
        value, ends = _estimate_median(values)
    elif metric in FRACTION_METRICS:
        ends = wilson_interval(values)
    else:
        ends = bootstrap_interval(values, seed)
    return StressRow(*case, metric, value, ends, len(values), better)


def _estimate_median(values: Float[np.ndarray, " images"]) -> tuple[float, tuple[float, float]]:
    """The median, and the values between which it lies: those whose ranks are as far from the
    middle as the share below the median may be from one half."""
    reach = min(0.5, NORMAL_QUANTILE / 2 / len(values) ** 0.5)
    low, middle, high = np.quantile(values, [0.5 - reach, 0.5, 0.5 + reach])
    return float(middle), (float(low), float(high))
