"""Accuracy against the size of the change that was reached, and the area under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from apercu.robustness.measures import area_under_accuracy_curve, measure_correctness_at
from apercu.robustness.plan import Job, find_objective_name, knowledge, norm_of
from apercu.robustness.result_cache import AttackResult
from apercu.robustness.rows import AccuracyCurve, StressRow
from apercu.statistics import bootstrap_interval

POINTS = 41
"""Points of the curve of an attack without budgets."""
NEARLY_ALL = 0.98
"""Such a curve ends where so many of the images that can be fooled are."""

CurveKey: TypeAlias = tuple[str, str, str]
"""Attack, filter and knowledge."""
KeyedResults: TypeAlias = list[tuple[Job, AttackResult]]


def compute_curves(
    found: Mapping[Job, AttackResult], honest: AttackResult, seed: int
) -> tuple[list[AccuracyCurve], list[StressRow]]:
    """One curve per attack, filter and knowledge, over all budgets, and the area under it.

    The curves of an attack end at the same size, so that their areas can be compared.
    """
    groups: dict[CurveKey, KeyedResults] = {}
    for job, verdicts in found.items():
        if job.attack is not None and find_objective_name(job.name) != "map":
            for behind in verdicts.top1:
                groups.setdefault((job.name, behind, knowledge(job)), []).append((job, verdicts))
    curves, areas = [], []
    for case, members in groups.items():
        end = _find_largest_size(case[0], groups, honest)
        if members[0][0].epsilon is None:
            sizes = np.linspace(0, end, POINTS).tolist()
            right = measure_correctness_at(_find_smallest_sizes(case, members, honest), sizes)
        else:
            sizes, right = _measure_at_budgets(case, members, honest, end)
        shares = area_under_accuracy_curve(right, sizes)
        accuracy = tuple(right.mean(1).tolist())
        curves.append(AccuracyCurve(*case, norm_of(members[0][0]), tuple(sizes), accuracy))
        kind = case[0], None, case[1], case[2], "auac"
        value, ends = float(shares.mean()), bootstrap_interval(shares, seed)
        areas.append(StressRow(*kind, value, ends, len(shares), "higher"))
    return curves, areas


def _measure_at_budgets(
    case: CurveKey, members: KeyedResults, honest: AttackResult, end: float
) -> tuple[list[float], Float[np.ndarray, "sizes images"]]:
    """Who is right at each size that was reached, ascending; the honest images are those at 0.

    An attacker who is allowed `end` and has not gone so far does no better there.
    """
    points = [
        (_measure_mean_size(case, one, honest), one[1].measure_correctness(case[1]))
        for one in members
    ]
    points = [
        (0.0, honest.measure_correctness(case[1])),
        *sorted(points, key=lambda point: point[0]),
    ]
    if points[-1][0] < end:
        points.append((end, points[-1][1]))
    sizes, right = zip(*points, strict=True)
    return list(sizes), np.stack(right)


def _measure_mean_size(
    case: CurveKey, member: tuple[Job, AttackResult], honest: AttackResult
) -> float:
    """Mean size of the change of the images that had been right."""
    job, verdicts = member
    before = honest.measure_correctness(case[1]) > 0
    sizes = verdicts.get_values(norm_of(job))
    return float(sizes[before].mean() if before.any() else sizes.mean())


def _find_smallest_sizes(
    case: CurveKey, members: KeyedResults, honest: AttackResult
) -> Float[np.ndarray, " images"]:
    """The size of the change where it fools, else infinity; 0 where nothing has to be changed."""
    ((job, verdicts),) = members
    sizes = np.where(
        verdicts.measure_correctness(case[1]) > 0, np.inf, verdicts.get_values(norm_of(job))
    )
    return np.where(honest.measure_correctness(case[1]) > 0, sizes, 0.0)


def _find_largest_size(
    attack: str, groups: Mapping[CurveKey, KeyedResults], honest: AttackResult
) -> float:
    """Where all curves of an attack end."""
    ends: list[float] = []
    for case, members in groups.items():
        if case[0] != attack:
            continue
        if members[0][0].epsilon is None:
            ends.append(_find_typical_size(_find_smallest_sizes(case, members, honest)))
        else:
            ends += [_measure_mean_size(case, one, honest) for one in members]
    return max(ends) or 1.0


def _find_typical_size(smallest: Float[np.ndarray, " images"]) -> float:
    finite = smallest[np.isfinite(smallest) & (smallest > 0)]
    return float(np.quantile(finite, NEARLY_ALL)) if len(finite) else 0.0
