"""What a stress test is asked to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from apercu.option_strings import MAX_SEED, parse_value, split_names
from apercu.robustness.attacks import Attack
from apercu.robustness.filters import Filter
from apercu.robustness.named import NONE, find_objective_name

AttackerKnowledge = Literal["naive", "adaptive"]
"""Whether the attacker knows of the filter."""


def _parse_number(value: object) -> object:
    """A fraction as it is typed, such as 8/255, as a number."""
    try:
        return parse_value(float, value) if isinstance(value, str) else value
    except ValueError:
        raise ValueError("expected a number such as 8/255") from None


Epsilon = Annotated[float, BeforeValidator(_parse_number), Field(gt=0, le=1)]


class StressPlan(BaseModel):
    """Attacks and filters by their names with settings, as they are typed.

    Attributes:
        attacks: such as `pgd:steps=20`; one with an epsilon of its own is made at that alone.
            `map_pgd` keeps the class and moves the map, `eot_pgd` expects over noise,
            `margin_pgd` climbs the difference of two logits.
        filters: such as `jpeg:quality=75`, or `none`.
        epsilons: budgets in units of the range of a pixel, such as 8/255.
        knowledge: attackers that know the classifier alone, and those that know the filter, too.
        limit: only so many of the images, drawn at random.
        batch: images that are attacked together.
        seed: of all draws.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    attacks: tuple[str, ...] = ("fgsm", "i_fgsm", "pgd")
    filters: tuple[str, ...] = (NONE,)
    epsilons: tuple[Epsilon, ...] = (2 / 255, 4 / 255, 8 / 255)
    knowledge: tuple[AttackerKnowledge, ...] = ("naive", "adaptive")
    limit: int | None = Field(None, ge=1)
    batch: int = Field(16, ge=1)
    seed: int = Field(0, ge=0, le=MAX_SEED)

    @field_validator("attacks", "filters", "epsilons", "knowledge", mode="before")
    @classmethod
    def _split_text(cls, value: object) -> object:
        """One or more, as they are typed, where a file has no list."""
        if isinstance(value, str):
            return split_names(value, "names", ()) if value.strip(", ") else ()
        return (value,) if isinstance(value, int | float) else value

    @field_validator("attacks", "filters", "epsilons", "knowledge")
    @classmethod
    def _check_values(cls, values: tuple[object, ...]) -> tuple[object, ...]:
        if not values:
            raise ValueError("expected at least one, got none")
        if len(set(values)) < len(values):
            raise ValueError("expected each once")
        return values


class StressSettings(StressPlan):
    """A plan, and what it is done with, as they are typed.

    Attributes:
        classifier, images: SPEC of each.
        explainer: a run folder.
        surrogate: SPEC of another classifier.
    """

    classifier: str | None = None
    images: str | None = None
    explainer: str | None = None
    surrogate: str | None = None

    @property
    def plan(self) -> StressPlan:
        """What is asked, whatever it is done with."""
        return StressPlan(**self.model_dump(include=set(StressPlan.model_fields)))


class Job(NamedTuple):
    """One attack against one target: the bare classifier, or it behind a filter.

    Attributes:
        name: of the attack, as typed; `none` for the honest images.
        epsilon: its budget; None where it has none.
        attack: None for the honest images.
        behind: name of the filter that the attacker knows of; None where of none.
        elsewhere: whether it is made against another classifier, and only shown to this one.
    """

    name: str
    epsilon: float | None
    attack: Attack | None
    known_filter: str | None
    on_surrogate: bool = False


def knowledge(job: Job) -> str:
    """What the attacker knows: the bare classifier, the filter before it, or another classifier."""
    if job.on_surrogate:
        return "transfer"
    return "naive" if job.known_filter is None else "adaptive"


def norm_of(job: Job) -> str:
    """The norm in which an attack is small."""
    bound = getattr(job.attack, "norm", "linf" if job.epsilon is not None else "l2")
    return str(bound)


def bound_of(job: Job) -> float | None:
    """How far an attack may go: its budget, or the ratio of one that multiplies; None for one that
    looks for the smallest change."""
    ratio: float | None = getattr(job.attack, "ratio", None)
    return ratio if job.epsilon is None else job.epsilon


def plan_jobs(
    plan: StressPlan,
    attacks: dict[str, Attack],
    filters: dict[str, Filter | None],
    *,
    surrogate: bool = False,
) -> list[Job]:
    """All that has to be done, the honest images first; `surrogate`: also against another one."""
    made = [Job(NONE, None, None, None)]
    behind = [name for name, one in filters.items() if one is not None]
    for (name, budget), at in expand_budgets(attacks, plan.epsilons).items():
        made.append(Job(name, budget, at, None))
        if find_objective_name(name) == "map":
            continue
        if "adaptive" in plan.knowledge:
            made += [Job(name, budget, at, known) for known in behind]
        if surrogate:
            made.append(Job(name, budget, at, None, on_surrogate=True))
    if "naive" not in plan.knowledge and None not in filters.values():
        made = [job for job in made if not _is_naive(job)]
    return made


def expand_budgets(
    attacks: Mapping[str, Attack], epsilons: Sequence[float]
) -> dict[tuple[str, float | None], Attack]:
    """Every attack at every budget; one whose name has an epsilon at that alone; one without
    budgets once, under None."""
    made: dict[tuple[str, float | None], Attack] = {}
    for name, attack in attacks.items():
        budgets: list[float | None] = [None]
        if any(field.name == "epsilon" for field in fields(attack)):  # type: ignore[arg-type]
            typed = "epsilon=" in name
            budgets = [attack.epsilon] if typed else list(epsilons)  # type: ignore[attr-defined]
        for budget in budgets:
            at = attack if budget is None else replace(attack, epsilon=budget)  # type: ignore[type-var]
            made[name, budget] = at
    return made


def _is_naive(job: Job) -> bool:
    """Whether a job only serves those who do not know of a filter."""
    itself = (
        job.known_filter is None and not job.on_surrogate and find_objective_name(job.name) != "map"
    )
    return job.attack is not None and itself


def find_test_filters(job: Job, filters: dict[str, Filter | None], plan: StressPlan) -> list[str]:
    """Names of the filters behind which a job's images are shown to the classifier."""
    if job.known_filter is not None:
        return [job.known_filter]
    always = job.attack is None or job.on_surrogate or find_objective_name(job.name) == "map"
    if always or "naive" in plan.knowledge:
        return list(filters)
    return [name for name, one in filters.items() if one is None]
