"""Attacks and filters by the names that people type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Annotated, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from apercu.errors import ConfigError
from apercu.option_strings import MAX_SEED, parse_named, parse_value, split_names
from apercu.robustness.attacks import ATTACKS, Attack
from apercu.robustness.filters import FILTERS, Filter

NONE = "none"
"""Name of no filter, and of no attack."""

ObjectiveName: TypeAlias = Literal["class", "map", "expected", "margin"]

OBJECTIVE_PREFIXES: dict[str, ObjectiveName] = {
    "map_": "map",
    "eot_": "expected",
    "margin_": "margin",
}
"""What stands before the name of an attack that climbs something else than the class."""


def find_objective_name(text: str) -> ObjectiveName:
    """What an attack of that name climbs: `class`, `map`, `expected` (the class, over noise), or
    `margin` (the class, by the lead of another)."""
    return next(
        (aim for prefix, aim in OBJECTIVE_PREFIXES.items() if text.startswith(prefix)), "class"
    )


def parse_attack(text: str, seed: int = 0) -> Attack:
    """Such as `pgd:steps=20`, or `map_pgd`; draws from `seed` unless it says its own.

    Raises:
        ConfigError: no such attack or setting, or one that cannot climb what is asked.
    """
    prefix = next((one for one in OBJECTIVE_PREFIXES if text.startswith(one)), "")
    bare = text.removeprefix(prefix)
    if prefix and bare.startswith(tuple(OBJECTIVE_PREFIXES)):
        raise ConfigError(
            f"attacks: {text}: expected one of {', '.join(OBJECTIVE_PREFIXES)} before a name"
        )
    made = parse_named(bare, ATTACKS, "attacks", seed=seed)
    if prefix and made.needs != "gradients":
        raise ConfigError(
            f"attacks: {text} has no gradients to climb; expected such as {prefix}pgd"
        )
    if prefix and not made.any_objective:
        raise ConfigError(f"attacks: {text} has its own aim; expected such as {prefix}pgd")
    return made


def parse_filter(text: str) -> Filter | None:
    """Such as `jpeg:quality=75`; None for `none`.

    Raises:
        ConfigError: no such filter or setting.
    """
    if text == NONE:
        return None
    return parse_named(text, FILTERS, "filters", other_names=(NONE,))


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
