"""The jobs of a stress test: each attack at each budget, on each target."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from pydantic import BaseModel, ConfigDict

from apercu.filters import NONE, Filter
from apercu.io import write_file
from apercu.robustness.attacks import Attack
from apercu.robustness.plan import ObjectiveName, StressPlan, find_objective_name

FOLDER = "cells"
"""Folder of the result cache; older result folders have it, so its name never changes."""
KNOWLEDGE = {
    "naive": "attacker does not know the filter",
    "adaptive": "attacker knows the filter",
    "transfer": "made against another classifier",
}
"""What an attacker knows, in plain words."""

AttackKey: TypeAlias = tuple[str, float | None]
"""Name and budget of an attack; the budget is None for an attack without budgets."""


def format_budget(epsilon: float | None) -> str:
    """Format a budget in steps of 8 bit.

    >>> format_budget(8 / 255), format_budget(None)
    ('8/255', '')
    """
    return "" if epsilon is None else f"{255 * epsilon:g}/255"


def name_attack(key: AttackKey) -> str:
    """Return the name of an attack with its budget in steps of 8 bit.

    >>> name_attack(("pgd", 4 / 255)), name_attack(("deepfool", None))
    ('pgd 4/255', 'deepfool')
    """
    name, epsilon = key
    return name if epsilon is None else f"{name} {format_budget(epsilon)}"


def describe_attack(name: str, epsilon: float | None) -> str:
    """Return an attack at its budget, as a part of a sentence.

    >>> describe_attack("pgd", 4 / 255), describe_attack("deepfool", None)
    ('pgd at 4/255', 'deepfool')
    """
    return name if epsilon is None else f"{name} at {format_budget(epsilon)}"


class Job(NamedTuple):
    """One attack on one target: the bare classifier, or the classifier behind a filter.

    Attributes:
        name: name of the attack with settings; `none` for the clean images.
        epsilon: budget of the attack; None where it has none.
        attack: the attack; None for the clean images.
        known_filter: name of the filter that the attacker knows of; None where there is none.
        on_surrogate: whether another classifier is attacked, and this one only tested.
    """

    name: str
    epsilon: float | None
    attack: Attack | None
    known_filter: str | None
    on_surrogate: bool = False

    @property
    def cache_key(self) -> str:
        """The job as the file names of the result cache have it, with names that never change."""
        return (
            f"Job(name={self.name!r}, epsilon={self.epsilon!r}, attack={self.attack!r}, "
            f"behind={self.known_filter!r}, elsewhere={self.on_surrogate!r})"
        )

    @property
    def title(self) -> str:
        """The job in a few words, for the progress of a stress test."""
        words = [name_attack((self.name, self.epsilon))]
        if self.known_filter is not None:
            words.append(f"through {self.known_filter}")
        if self.on_surrogate:
            words.append("on the surrogate")
        return " ".join(words)

    @property
    def objective(self) -> ObjectiveName:
        """The name of the objective that the attack maximises."""
        return find_objective_name(self.name)

    @property
    def knowledge(self) -> str:
        """What the attacker knows: the bare classifier, the filter too, or another classifier."""
        if self.on_surrogate:
            return "transfer"
        return "naive" if self.known_filter is None else "adaptive"

    @property
    def norm(self) -> str:
        """The norm in which the attack makes small changes."""
        default = "linf" if self.epsilon is not None else "l2"
        return str(getattr(self.attack, "norm", default))

    @property
    def bound(self) -> float | None:
        """The largest change: the budget, or the ratio of an attack that multiplies.

        None for an attack that looks for the smallest change.
        """
        ratio: float | None = getattr(self.attack, "ratio", None)
        return ratio if self.epsilon is None else self.epsilon


def plan_jobs(
    plan: StressPlan,
    attacks: Mapping[str, Attack],
    filters: Mapping[str, Filter | None],
    *,
    surrogate: bool = False,
) -> list[Job]:
    """Plan all jobs of a stress test, the clean images first.

    Args:
        plan: budgets and knowledge of the attacker.
        attacks: attacks by name.
        filters: filters by name; None is no filter.
        surrogate: whether another classifier is attacked, too.

    Returns:
        The jobs in the order in which they run.
    """
    jobs = [Job(NONE, None, None, None)]
    filter_names = [name for name, filter in filters.items() if filter is not None]
    for (name, budget), attack in expand_budgets(attacks, plan.epsilons).items():
        jobs.append(Job(name, budget, attack, None))
        if find_objective_name(name) == "map":
            continue
        if "adaptive" in plan.knowledge:
            jobs += [Job(name, budget, attack, filter_name) for filter_name in filter_names]
        if surrogate:
            jobs.append(Job(name, budget, attack, None, on_surrogate=True))
    if "naive" not in plan.knowledge and None not in filters.values():
        jobs = [job for job in jobs if not _is_naive(job)]
    return jobs


def expand_budgets(
    attacks: Mapping[str, Attack], epsilons: Sequence[float]
) -> dict[AttackKey, Attack]:
    """Combine every attack with every budget.

    Args:
        attacks: attacks by name.
        epsilons: budgets. An attack whose name has an epsilon runs with that budget alone; one
            without budgets runs once.

    Returns:
        Attacks by name and budget; the budget is None for an attack without budgets.
    """
    expanded: dict[AttackKey, Attack] = {}
    for name, attack in attacks.items():
        own: float | None = getattr(attack, "epsilon", None)
        if own is None:
            expanded[name, None] = attack
            continue
        for budget in [own] if "epsilon=" in name else epsilons:
            expanded[name, budget] = replace(attack, epsilon=budget)  # type: ignore[type-var]
    return expanded


def _is_naive(job: Job) -> bool:
    """Whether a job only serves attackers who do not know of a filter."""
    on_classifier = job.known_filter is None and not job.on_surrogate and job.objective != "map"
    return job.attack is not None and on_classifier


def choose_job_to_draw(jobs: Sequence[Job]) -> Job:
    """Choose the attack on the classifier itself with the largest budget.

    Attacks on the class come before those on the map, and those on the bare classifier before those
    behind a filter. The attack runs once more, so one that follows gradients comes before one that
    needs a thousand queries. Without attacks it is the job of the clean images.
    """
    own = [job for job in jobs if not job.on_surrogate]
    own.reverse()  # the last one of equal jobs is chosen

    def sort_key(job: Job) -> tuple[bool, bool, bool, float, bool]:
        follows_gradients = job.attack is not None and job.attack.any_objective
        return (
            job.attack is not None,
            job.objective != "map",
            job.known_filter is None,
            job.epsilon or 0.0,
            follows_gradients,
        )

    return max(own, key=sort_key)


def find_test_filters(
    job: Job, filters: Mapping[str, Filter | None], plan: StressPlan
) -> list[str]:
    """Find the names of the filters behind which the classifier is tested with a job's images."""
    if job.known_filter is not None:
        return [job.known_filter]
    always = job.attack is None or job.on_surrogate or job.objective == "map"
    if always or "naive" in plan.knowledge:
        return list(filters)
    return [name for name, filter in filters.items() if filter is None]


class AttackResult(BaseModel):
    """The result of one job for every image of the sample, in its order.

    Attributes:
        top1: whether the true class is predicted, behind each filter.
        top5: whether the true class is among the five most probable ones, behind each filter.
        linf, l2, l0: size of the change, see `apercu.robustness.curves.compute_norms`.
        rank_correlation: rank correlation of the maps before and after; empty without an explainer.
        overlap: IoU of the strongest parts of the same maps.
        queries: number of queries; empty where an attack does not count them.
        stuck: whether the attack failed and the clean image has no gradient to follow; empty for an
            attack that does not follow gradients.
    """

    model_config = ConfigDict(extra="forbid")
    top1: dict[str, list[bool]] = {}
    top5: dict[str, list[bool]] = {}
    linf: list[float] = []
    l2: list[float] = []
    l0: list[float] = []
    rank_correlation: list[float] = []
    overlap: list[float] = []
    queries: list[float] = []
    stuck: list[bool] = []

    def get_values(self, name: str) -> Float[np.ndarray, " images"]:
        """Return one of the lists of numbers as an array."""
        return np.asarray(getattr(self, name), dtype=float)

    def measure_correctness(
        self, filter_name: str, metric: str = "top1"
    ) -> Float[np.ndarray, " images"]:
        """Return 1 where the classifier is correct behind a filter, else 0."""
        return np.asarray(getattr(self, metric)[filter_name], dtype=float)


@dataclass(frozen=True)
class ResultCache:
    """The results of the finished jobs in a folder.

    Args:
        folder: folder of the cache.
        subject: text on everything that all results depend on: classifier, images, explainer.
    """

    folder: Path
    subject: str

    def load(self, key: str) -> AttackResult | None:
        """Load the result of a job; None where there is no result, or it cannot be read."""
        try:
            return AttackResult.model_validate_json(self._make_path(key).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def save(self, key: str, result: AttackResult) -> None:
        """Save the result of a job.

        Raises:
            OutputError: the folder cannot be written.
        """
        write_file(self._make_path(key), json.dumps(result.model_dump()))

    def _make_path(self, key: str) -> Path:
        digest = hashlib.sha256(f"{self.subject}\n{key}".encode()).hexdigest()[:20]
        return self.folder / FOLDER / f"{digest}.json"
