"""Warnings of false security: accuracies that a stronger or better informed attack would lower."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

from apercu.filters import NONE
from apercu.robustness.jobs import AttackResult, Job, format_budget

CLEAR_DIFFERENCE = 0.1
"""Difference of accuracies that is worth a warning."""


class AttackCase(NamedTuple):
    """An attack, and the filter behind which the classifier is tested with its images."""

    job: Job
    filter: str

    @property
    def comparison_key(self) -> tuple[float | None, str, str, str]:
        """Bound, norm, filter and knowledge: equal for attacks that can be compared."""
        return self.job.bound, self.job.norm, self.filter, self.job.knowledge

    def __str__(self) -> str:
        budget = format_budget(self.job.epsilon)
        name = f"{self.job.name} at {budget}" if budget else self.job.name
        return f"{name} ({self.job.knowledge})"


Accuracies: TypeAlias = dict[AttackCase, float]


def find_false_security(results: Mapping[Job, AttackResult]) -> Iterator[str]:
    """Yield one warning for every accuracy that another attack shows to be too high."""
    accuracies: Accuracies = {
        AttackCase(job, name): float(result.measure_correctness(name).mean())
        for job, result in results.items()
        for name in result.top1
        if job.objective != "map"
    }
    yield from _find_vanishing_gradients(results)
    yield from _find_naive_only_filters(accuracies)
    yield from _find_stronger_transfers(accuracies)
    yield from _find_weaker_attacks(accuracies)


def _find_vanishing_gradients(results: Mapping[Job, AttackResult]) -> Iterator[str]:
    """Find attacks without a gradient to follow: the logits are too certain, or too coarse."""
    for job, result in results.items():
        if count := sum(result.stuck):
            case = AttackCase(job, job.known_filter or NONE)
            margin = f"margin_{job.name}"
            hint = f"use the margin ({margin}), or " if _lacks(results, job, margin) else ""
            yield (
                f"{_describe_filter(case)}{case} finds no gradient at {count} of "
                f"{len(result.stuck)} images, which it does not fool; {hint}use an attack that "
                "needs only decisions (sparse_evo, square)"
            )


def _lacks(results: Mapping[Job, AttackResult], job: Job, name: str) -> bool:
    """Whether a job follows the loss of the class, and no job with the name was run."""
    return job.objective == "class" and all(other.name != name for other in results)


def _find_naive_only_filters(accuracies: Accuracies) -> Iterator[str]:
    """Find filters that only help against attackers who do not know of them.

    Where the bare classifier was not attacked, the naive attacker is compared with the adaptive
    attacker alone.
    """
    clean = {case.filter: value for case, value in accuracies.items() if case.job.name == NONE}
    for case, value in accuracies.items():
        job = case.job
        if job.attack is None or case.filter == NONE or job.knowledge != "naive":
            continue
        bare = accuracies.get(AttackCase(job, NONE))
        adaptive_job = job._replace(known_filter=case.filter)
        adaptive = accuracies.get(AttackCase(adaptive_job, case.filter))
        if adaptive is None or not _is_clear(value, max(bare or 0.0, adaptive)):
            continue
        yield (
            f"{case.filter} wins only against an attacker who does not know of it: {case} leaves "
            f"{value:.1%} right of {clean[case.filter]:.1%}, through the filter {adaptive:.1%}"
        )


def _find_stronger_transfers(accuracies: Accuracies) -> Iterator[str]:
    """Find attacks on the classifier that are weaker than the same attack on the surrogate."""
    for case, value in accuracies.items():
        if not case.job.on_surrogate:
            continue
        known_filter = None if case.filter == NONE else case.filter
        direct_job = case.job._replace(on_surrogate=False, known_filter=known_filter)
        direct = AttackCase(direct_job, case.filter)
        if _is_clear(accuracies.get(direct, 0.0), value):
            yield _describe_weaker_attack(direct, accuracies[direct], case, value)


def _find_weaker_attacks(accuracies: Accuracies) -> Iterator[str]:
    """Find attacks that are weaker than the strongest comparable one."""
    attacked = {case: value for case, value in accuracies.items() if case.job.attack is not None}
    strongest: dict[object, AttackCase] = {}
    for case, value in attacked.items():
        best = strongest.setdefault(case.comparison_key, case)
        if value < attacked[best]:
            strongest[case.comparison_key] = case
    for case, value in attacked.items():
        best = strongest[case.comparison_key]
        if _is_clear(value, attacked[best]):
            yield _describe_weaker_attack(case, value, best, attacked[best])


def _is_clear(higher: float, lower: float) -> bool:
    return round(higher - lower, 9) >= CLEAR_DIFFERENCE


def _describe_weaker_attack(
    weaker: AttackCase, higher: float, stronger: AttackCase, lower: float
) -> str:
    return (
        f"{_describe_filter(weaker)}{weaker} flatters: it leaves {higher:.1%} right, "
        f"{stronger} {lower:.1%}"
    )


def _describe_filter(case: AttackCase) -> str:
    """Describe the filter of a case, as the beginning of a sentence."""
    return "" if case.filter == NONE else f"behind {case.filter} "
