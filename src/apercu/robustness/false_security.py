"""Cases that look safe, and are not: the attacker did not know enough, or was weak."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from apercu.robustness.plan import NONE, Job, bound_of, find_objective_name, knowledge, norm_of
from apercu.robustness.result_cache import AttackResult

CLEAR_DIFFERENCE = 0.1
"""Difference of accuracies that is worth a warning."""


class AttackCase(NamedTuple):
    """An attack, and what the classifier is shown behind."""

    job: Job
    filter: str

    @property
    def comparison_key(self) -> tuple[float | None, str, str, str]:
        """What two attacks have in common that can be compared: bound, norm, filter, knowledge."""
        return bound_of(self.job), norm_of(self.job), self.filter, knowledge(self.job)

    def __str__(self) -> str:
        epsilon = self.job.epsilon
        at = "" if epsilon is None else f" at {255 * epsilon:g}/255"
        return f"{self.job.name}{at} ({knowledge(self.job)})"


Accuracies: TypeAlias = dict[AttackCase, float]


def find_false_security(found: Mapping[Job, AttackResult]) -> Iterator[str]:
    """One line for every accuracy that another attacker shows to be too good."""
    right: Accuracies = {
        AttackCase(job, behind): float(verdicts.measure_correctness(behind).mean())
        for job, verdicts in found.items()
        for behind in verdicts.top1
        if find_objective_name(job.name) != "map"
    }
    yield from _find_vanishing_gradients(found)
    yield from _find_naive_only_filters(right)
    yield from _find_stronger_transfers(right)
    yield from _find_weaker_attacks(right)


def _find_vanishing_gradients(found: Mapping[Job, AttackResult]) -> Iterator[str]:
    """Attacks that had nothing to climb: an answer so sure, or so coarse, that it has no slope."""
    for job, verdicts in found.items():
        if count := sum(verdicts.stuck):
            case = AttackCase(job, job.known_filter or NONE)
            margin = f"margin_{job.name}"
            other = f"climb the margin ({margin}), or " if _lacks_attack(found, job, margin) else ""
            yield (
                f"{_describe_filter(case)}{case} finds no slope at {count} of {len(verdicts.stuck)} images "
                f"and does not fool with them; {other}ask for decisions alone (sparse_evo, square)"
            )


def _lacks_attack(found: Mapping[Job, AttackResult], job: Job, name: str) -> bool:
    """Whether a job climbs the class, and no other of that name was done."""
    return find_objective_name(job.name) == "class" and all(other.name != name for other in found)


def _find_naive_only_filters(right: Accuracies) -> Iterator[str]:
    """Filters that win only against those who do not know of them.

    Where the bare classifier was not attacked, the naive attacker is compared with the adaptive
    one alone.
    """
    honest = {case.filter: value for case, value in right.items() if case.job.name == NONE}
    for case, value in right.items():
        job = case.job
        if job.attack is None or case.filter == NONE or knowledge(job) != "naive":
            continue
        bare = right.get(AttackCase(job, NONE))
        knowing = right.get(AttackCase(job._replace(behind=case.filter), case.filter))
        if knowing is None or not _is_clear(value, max(bare or 0.0, knowing)):
            continue
        yield (
            f"{case.filter} wins only against an attacker who does not know of it: {case} leaves "
            f"{value:.1%} right of {honest[case.filter]:.1%}, through the filter {knowing:.1%}"
        )


def _find_stronger_transfers(right: Accuracies) -> Iterator[str]:
    """Attacks of the classifier itself that leave more than the same made against another."""
    for case, value in right.items():
        if not case.job.on_surrogate:
            continue
        behind = None if case.filter == NONE else case.filter
        straight = AttackCase(case.job._replace(elsewhere=False, behind=behind), case.filter)
        if _is_clear(right.get(straight, 0.0), value):
            yield _describe_weaker_attack(straight, right[straight], case, value)


def _find_weaker_attacks(right: Accuracies) -> Iterator[str]:
    """Attacks that leave more than the strongest of their like."""
    strongest: dict[object, AttackCase] = {}
    for case, value in right.items():
        if case.job.attack is not None:
            best = strongest.setdefault(case.comparison_key, case)
            if value < right[best]:
                strongest[case.comparison_key] = case
    for case, value in right.items():
        best = strongest.get(case.comparison_key, case) if case.job.attack is not None else case
        if _is_clear(value, right[best]):
            yield _describe_weaker_attack(case, value, best, right[best])


def _is_clear(more: float, less: float) -> bool:
    return round(more - less, 9) >= CLEAR_DIFFERENCE


def _describe_weaker_attack(
    weaker: AttackCase, more: float, stronger: AttackCase, less: float
) -> str:
    return f"{_describe_filter(weaker)}{weaker} flatters: it leaves {more:.1%} right, {stronger} {less:.1%}"


def _describe_filter(case: AttackCase) -> str:
    """Before a sentence about a case."""
    return "" if case.filter == NONE else f"behind {case.filter} "
