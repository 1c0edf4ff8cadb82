"""Cases that look safe, and are not: the attacker did not know enough, or was weak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from apercu.robustness.named import NONE, aim_of
from apercu.robustness.plan import Job, bound_of, knowledge, norm_of
from apercu.robustness.result_cache import Verdicts

CLEARLY = 0.1
"""Difference of accuracies that is worth a warning."""


class Case(NamedTuple):
    """An attack, and what the classifier is shown behind."""

    job: Job
    behind: str

    @property
    def likes(self) -> tuple[float | None, str, str, str]:
        """What two attacks have in common that can be compared: bound, norm, filter, knowledge."""
        return bound_of(self.job), norm_of(self.job), self.behind, knowledge(self.job)

    def __str__(self) -> str:
        epsilon = self.job.epsilon
        at = "" if epsilon is None else f" at {255 * epsilon:g}/255"
        return f"{self.job.name}{at} ({knowledge(self.job)})"


Accuracies: TypeAlias = dict[Case, float]


def flattered(found: Mapping[Job, Verdicts]) -> Iterator[str]:
    """One line for every accuracy that another attacker shows to be too good."""
    right: Accuracies = {
        Case(job, behind): float(verdicts.right(behind).mean())
        for job, verdicts in found.items()
        for behind in verdicts.top1
        if aim_of(job.name) != "map"
    }
    yield from _stuck(found)
    yield from _blind(right)
    yield from _elsewhere(right)
    yield from _weak(right)


def _stuck(found: Mapping[Job, Verdicts]) -> Iterator[str]:
    """Attacks that had nothing to climb: an answer so sure, or so coarse, that it has no slope."""
    for job, verdicts in found.items():
        if count := sum(verdicts.stuck):
            case = Case(job, job.behind or NONE)
            margin = f"margin_{job.name}"
            other = f"climb the margin ({margin}), or " if _misses(found, job, margin) else ""
            yield (
                f"{_place(case)}{case} finds no slope at {count} of {len(verdicts.stuck)} images "
                f"and does not fool with them; {other}ask for decisions alone (sparse_evo, square)"
            )


def _misses(found: Mapping[Job, Verdicts], job: Job, name: str) -> bool:
    """Whether a job climbs the class, and no other of that name was done."""
    return aim_of(job.name) == "class" and all(other.name != name for other in found)


def _blind(right: Accuracies) -> Iterator[str]:
    """Filters that win only against those who do not know of them.

    Where the bare classifier was not attacked, the naive attacker is compared with the adaptive
    one alone.
    """
    honest = {case.behind: value for case, value in right.items() if case.job.name == NONE}
    for case, value in right.items():
        job = case.job
        if job.attack is None or case.behind == NONE or knowledge(job) != "naive":
            continue
        bare = right.get(Case(job, NONE))
        knowing = right.get(Case(job._replace(behind=case.behind), case.behind))
        if knowing is None or not _clear(value, max(bare or 0.0, knowing)):
            continue
        yield (
            f"{case.behind} wins only against an attacker who does not know of it: {case} leaves "
            f"{value:.1%} right of {honest[case.behind]:.1%}, through the filter {knowing:.1%}"
        )


def _elsewhere(right: Accuracies) -> Iterator[str]:
    """Attacks of the classifier itself that leave more than the same made against another."""
    for case, value in right.items():
        if not case.job.elsewhere:
            continue
        behind = None if case.behind == NONE else case.behind
        straight = Case(case.job._replace(elsewhere=False, behind=behind), case.behind)
        if _clear(right.get(straight, 0.0), value):
            yield _told(straight, right[straight], case, value)


def _weak(right: Accuracies) -> Iterator[str]:
    """Attacks that leave more than the strongest of their like."""
    strongest: dict[object, Case] = {}
    for case, value in right.items():
        if case.job.attack is not None:
            best = strongest.setdefault(case.likes, case)
            if value < right[best]:
                strongest[case.likes] = case
    for case, value in right.items():
        best = strongest.get(case.likes, case) if case.job.attack is not None else case
        if _clear(value, right[best]):
            yield _told(case, value, best, right[best])


def _clear(more: float, less: float) -> bool:
    return round(more - less, 9) >= CLEARLY


def _told(weaker: Case, more: float, stronger: Case, less: float) -> str:
    return f"{_place(weaker)}{weaker} flatters: it leaves {more:.1%} right, {stronger} {less:.1%}"


def _place(case: Case) -> str:
    """Before a sentence about a case."""
    return "" if case.behind == NONE else f"behind {case.behind} "
