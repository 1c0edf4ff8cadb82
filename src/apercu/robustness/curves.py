"""Accuracy against the size of the change that was reached, and the area under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from apercu.evaluation.interval import bootstrap_interval
from apercu.robustness.measures import auac, right_at
from apercu.robustness.named import aim_of
from apercu.robustness.plan import Job, knowledge, norm_of
from apercu.robustness.result_cache import Verdicts
from apercu.robustness.rows import Curve, Row

POINTS = 41
"""Points of the curve of an attack without budgets."""
NEARLY_ALL = 0.98
"""Such a curve ends where so many of the images that can be fooled are."""

Case: TypeAlias = tuple[str, str, str]
"""Attack, filter and knowledge."""
Members: TypeAlias = list[tuple[Job, Verdicts]]


def curves_of(
    found: Mapping[Job, Verdicts], honest: Verdicts, seed: int
) -> tuple[list[Curve], list[Row]]:
    """One curve per attack, filter and knowledge, over all budgets, and the area under it.

    The curves of an attack end at the same size, so that their areas can be compared.
    """
    groups: dict[Case, Members] = {}
    for job, verdicts in found.items():
        if job.attack is not None and aim_of(job.name) != "map":
            for behind in verdicts.top1:
                groups.setdefault((job.name, behind, knowledge(job)), []).append((job, verdicts))
    curves, areas = [], []
    for case, members in groups.items():
        end = _end(case[0], groups, honest)
        if members[0][0].epsilon is None:
            sizes = np.linspace(0, end, POINTS).tolist()
            right = right_at(_smallest(case, members, honest), sizes)
        else:
            sizes, right = _reached(case, members, honest, end)
        shares = auac(right, sizes)
        accuracy = tuple(right.mean(1).tolist())
        curves.append(Curve(*case, norm_of(members[0][0]), tuple(sizes), accuracy))
        kind = case[0], None, case[1], case[2], "auac"
        value, ends = float(shares.mean()), bootstrap_interval(shares, seed)
        areas.append(Row(*kind, value, ends, len(shares), "higher"))
    return curves, areas


def _reached(
    case: Case, members: Members, honest: Verdicts, end: float
) -> tuple[list[float], Float[np.ndarray, "sizes images"]]:
    """Who is right at each size that was reached, ascending; the honest images are those at 0.

    An attacker who is allowed `end` and has not gone so far does no better there.
    """
    points = [(_size(case, one, honest), one[1].right(case[1])) for one in members]
    points = [(0.0, honest.right(case[1])), *sorted(points, key=lambda point: point[0])]
    if points[-1][0] < end:
        points.append((end, points[-1][1]))
    sizes, right = zip(*points, strict=True)
    return list(sizes), np.stack(right)


def _size(case: Case, member: tuple[Job, Verdicts], honest: Verdicts) -> float:
    """Mean size of the change of the images that had been right."""
    job, verdicts = member
    before = honest.right(case[1]) > 0
    sizes = verdicts.values(norm_of(job))
    return float(sizes[before].mean() if before.any() else sizes.mean())


def _smallest(case: Case, members: Members, honest: Verdicts) -> Float[np.ndarray, " images"]:
    """The size of the change where it fools, else infinity; 0 where nothing has to be changed."""
    ((job, verdicts),) = members
    sizes = np.where(verdicts.right(case[1]) > 0, np.inf, verdicts.values(norm_of(job)))
    return np.where(honest.right(case[1]) > 0, sizes, 0.0)


def _end(attack: str, groups: Mapping[Case, Members], honest: Verdicts) -> float:
    """Where all curves of an attack end."""
    ends: list[float] = []
    for case, members in groups.items():
        if case[0] != attack:
            continue
        if members[0][0].epsilon is None:
            ends.append(_typical(_smallest(case, members, honest)))
        else:
            ends += [_size(case, one, honest) for one in members]
    return max(ends) or 1.0


def _typical(smallest: Float[np.ndarray, " images"]) -> float:
    finite = smallest[np.isfinite(smallest) & (smallest > 0)]
    return float(np.quantile(finite, NEARLY_ALL)) if len(finite) else 0.0
