"""Accuracy against the size of the change, and the area under it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float

from apercu.compare.interval import interval
from apercu.robustness.cells import Verdicts
from apercu.robustness.measures import auac, right_at
from apercu.robustness.named import aim_of
from apercu.robustness.plan import Job, knowledge, norm_of
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

    The curves of an attack end at the same budget, so that their areas can be compared.
    """
    groups: dict[Case, Members] = {}
    for job, verdicts in found.items():
        if job.attack is not None and aim_of(job.name) != "map":
            for behind in verdicts.top1:
                groups.setdefault((job.name, behind, knowledge(job)), []).append((job, verdicts))
    curves, areas = [], []
    for case, members in groups.items():
        if members[0][0].epsilon is None:
            budgets = np.linspace(0, _end(case[0], groups, honest), POINTS).tolist()
            right = right_at(_smallest(case, members, honest), budgets)
        else:
            budgets, right = _budgeted(case, members, honest)
        shares = auac(right, budgets)
        accuracy = tuple(right.mean(1).tolist())
        curves.append(Curve(*case, norm_of(members[0][0]), tuple(budgets), accuracy))
        kind = case[0], None, case[1], case[2], "auac"
        value, ends = float(shares.mean()), interval(shares, seed)
        areas.append(Row(*kind, value, ends, len(shares), "higher"))
    return curves, areas


def _budgeted(
    case: Case, members: Members, honest: Verdicts
) -> tuple[list[float], Float[np.ndarray, "budgets images"]]:
    """Who is right at each budget, ascending; the honest images are those at 0."""
    at = {job.epsilon or 0.0: verdicts.right(case[1]) for job, verdicts in members}
    at[0.0] = honest.right(case[1])
    budgets = sorted(at)
    return budgets, np.stack([at[budget] for budget in budgets])


def _smallest(case: Case, members: Members, honest: Verdicts) -> Float[np.ndarray, " images"]:
    """The size of the change where it fools, else infinity; 0 where nothing has to be changed."""
    ((job, verdicts),) = members
    sizes = np.where(verdicts.right(case[1]) > 0, np.inf, verdicts.values(norm_of(job)))
    return np.where(honest.right(case[1]) > 0, sizes, 0.0)


def _end(attack: str, groups: Mapping[Case, Members], honest: Verdicts) -> float:
    """Where all curves of an attack without budgets end."""
    ends: Sequence[float] = [
        _typical(_smallest(case, members, honest))
        for case, members in groups.items()
        if case[0] == attack
    ]
    return max(ends) or 1.0


def _typical(smallest: Float[np.ndarray, " images"]) -> float:
    finite = smallest[np.isfinite(smallest) & (smallest > 0)]
    return float(np.quantile(finite, NEARLY_ALL)) if len(finite) else 0.0
