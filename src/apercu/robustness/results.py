"""From the verdicts on every image to rows, curves and warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from apercu.compare.interval import interval
from apercu.output import write_json
from apercu.robustness.cells import Verdicts
from apercu.robustness.measures import accuracy_at, auac
from apercu.robustness.named import NONE, aim_of
from apercu.robustness.plan import Job

RESULTS = "results.json"
POINTS = 41
"""Points of a curve."""
CLEARLY = 0.1
"""Difference of accuracies that is worth a warning."""


@dataclass(frozen=True)
class Row:
    """One measured value: the mean over n images, with a bootstrapped 95 % interval.

    Attributes:
        epsilon: budget, in units of the range of a pixel; None where there is none, or several.
        metric: `top1`, `top5`: accuracy. `success`: share of what was right behind this filter
            that is not any more. `auac`: area under the accuracy-perturbation curve. `norm`: mean
            size of the changes. `map_rank_correlation`, `map_iou`: of the maps before and after.
    """

    attack: str
    epsilon: float | None
    filter: str
    knowledge: str
    metric: str
    value: float
    ci95: tuple[float, float]
    n: int
    better: str


@dataclass(frozen=True)
class Curve:
    """Accuracy against the norm of the smallest change that fools."""

    attack: str
    filter: str
    knowledge: str
    norm: str
    budgets: tuple[float, ...]
    accuracy: tuple[float, ...]


@dataclass(frozen=True)
class StressResults:
    """All that a stress test found."""

    about: Mapping[str, Any]
    rows: tuple[Row, ...]
    curves: tuple[Curve, ...] = ()
    warnings: tuple[str, ...] = ()
    environment: Mapping[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        """Writes `results.json`; raises `OutputError`."""
        content = {
            **self.about,
            "rows": [asdict(row) for row in self.rows],
            "curves": [asdict(curve) for curve in self.curves],
            "warnings": list(self.warnings),
            "environment": dict(self.environment),
        }
        write_json(folder / RESULTS, content)

    def value(self, attack: str, epsilon: float | None, behind: str, knowledge: str) -> Row | None:
        """The top-1 accuracy of a case, if it was measured."""
        case = attack, epsilon, behind, knowledge
        for row in self.rows:
            if row.metric == "top1" and case == (
                row.attack,
                row.epsilon,
                row.filter,
                row.knowledge,
            ):
                return row
        return None


def summarised(
    found: Mapping[Job, Verdicts],
    about: Mapping[str, Any],
    environment: Mapping[str, Any],
    seed: int,
) -> StressResults:
    """Means, curves, and which filters win only against those who do not know of them."""
    honest = next(verdicts for job, verdicts in found.items() if job.name == NONE)
    rows: list[Row] = []
    for job, verdicts in found.items():
        rows += _rows(job, verdicts, honest, seed)
    curves, areas = _curves(found, honest, seed)
    results = StressResults(about, tuple(rows + areas), tuple(curves), (), environment)
    told = tuple(_warnings(results))
    return StressResults(about, results.rows, results.curves, told, environment)


def knowledge(job: Job) -> str:
    """What the attacker knows: the bare classifier, the filter before it, or another classifier."""
    if job.elsewhere:
        return "transfer"
    return "naive" if job.behind is None else "adaptive"


def norm_of(job: Job) -> str:
    """The norm in which an attack is small."""
    bound = getattr(job.attack, "norm", "linf" if job.epsilon is not None else "l2")
    return str(bound)


def _rows(job: Job, found: Verdicts, honest: Verdicts, seed: int) -> list[Row]:
    made = []
    for behind in found.top1:
        case = job.name, job.epsilon, behind, knowledge(job)

        def row(
            metric: str,
            values: Float[np.ndarray, " images"],
            better: str,
            case: tuple[str, float | None, str, str] = case,
        ) -> Row:
            ends = interval(values, seed)
            return Row(*case, metric, float(values.mean()), ends, len(values), better)

        made += [row(name, found.right(behind, name), "higher") for name in ("top1", "top5")]
        if job.attack is None:
            continue
        before = honest.right(behind) > 0
        if before.any() and aim_of(job.name) != "map":
            made.append(row("success", 1 - found.right(behind)[before], "lower"))
        made.append(row("norm", found.values(norm_of(job)), "higher"))
        for metric, kept in (("map_rank_correlation", "rank_correlation"), ("map_iou", "overlap")):
            if len(values := found.values(kept)):
                made.append(row(metric, values, "higher"))
    return made


def _curves(
    found: Mapping[Job, Verdicts], honest: Verdicts, seed: int
) -> tuple[list[Curve], list[Row]]:
    """One curve per attack, filter and knowledge, over all budgets; its area where it has two."""
    curves, areas = [], []
    groups: dict[tuple[str, str, str], list[tuple[Job, Verdicts]]] = {}
    for job, verdicts in found.items():
        if job.attack is not None and aim_of(job.name) != "map":
            for behind in verdicts.top1:
                groups.setdefault((job.name, behind, knowledge(job)), []).append((job, verdicts))
    for (name, behind, knows), members in groups.items():
        norm = norm_of(members[0][0])
        sizes = [
            np.where(verdicts.right(behind) > 0, np.inf, verdicts.values(norm))
            for _, verdicts in members
        ]
        smallest = np.where(honest.right(behind) > 0, np.min(sizes, axis=0), 0.0)
        budgets = [job.epsilon for job, _ in members if job.epsilon is not None]
        highest = max(budgets, default=_typical(smallest))
        points = np.linspace(0, highest, POINTS)
        curve = accuracy_at(smallest, points.tolist())
        curves.append(
            Curve(name, behind, knows, norm, tuple(points.tolist()), tuple(curve.tolist()))
        )
        if len(budgets) > 1:
            shares = auac(smallest, highest)
            mean, ends = float(shares.mean()), interval(shares, seed)
            row = Row(name, None, behind, knows, "auac", mean, ends, len(shares), "higher")
            areas.append(row)
    return curves, areas


def _typical(smallest: Float[np.ndarray, " images"]) -> float:
    """Where the curve of an attack without a budget ends: nearly all images are fooled."""
    finite = smallest[np.isfinite(smallest) & (smallest > 0)]
    return float(np.quantile(finite, 0.98)) if len(finite) else 1.0


def _warnings(results: StressResults) -> list[str]:
    return [*_blindness(results), *_weakness(results)]


def _blindness(results: StressResults) -> Iterator[str]:
    """Filters that win only against those who do not know of them."""
    for row in results.rows:
        if row.metric != "top1" or row.knowledge != "naive" or NONE in (row.attack, row.filter):
            continue
        bare = results.value(row.attack, row.epsilon, NONE, "naive")
        knowing = results.value(row.attack, row.epsilon, row.filter, "adaptive")
        if bare is None or knowing is None:
            continue
        if row.value - bare.value >= CLEARLY and row.value - knowing.value >= CLEARLY:
            yield (
                f"{row.filter} wins only against an attacker who does not know of it: {row.attack}"
                f"{_at(row)} leaves {row.value:.1%} right, through the filter {knowing.value:.1%}"
            )


def _weakness(results: StressResults) -> Iterator[str]:
    """Cases in which another attacker leaves clearly less, so that gradients were hidden."""
    for row in results.rows:
        if row.metric != "top1" or row.attack == NONE or aim_of(row.attack) == "map":
            continue
        plain = row.attack.removeprefix("eot_").partition(":")[0]
        weaker = results.value(row.attack, row.epsilon, row.filter, _straight(row))
        other = results.value(plain, row.epsilon, row.filter, row.knowledge)
        for one in (weaker if row.knowledge == "transfer" else None, other):
            if one is not None and one != row and one.value - row.value >= CLEARLY:
                before = "" if row.filter == NONE else f"behind {row.filter} "
                yield (
                    f"{before}the gradients flatter: {one.attack}{_at(one)} ({one.knowledge}) "
                    f"leaves {one.value:.1%} right, {row.attack} ({row.knowledge}) {row.value:.1%}"
                )


def _straight(row: Row) -> str:
    """Who attacks the classifier itself as well as can be."""
    return "naive" if row.filter == NONE else "adaptive"


def _at(row: Row) -> str:
    return "" if row.epsilon is None else f" at {255 * row.epsilon:g}/255"
